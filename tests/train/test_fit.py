import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from small import ALL, SGD, Listening, network, same_weights
from torch import nn

from edgeopt.errors import StageFailed, UsageError
from edgeopt.train import Augment, Fit, feed
from edgeopt.train.fit import fit
from edgeopt.train.objectives import HardLabels, WithTeacher


class Stumbling(HardLabels):
    """Raises `error` (or scales the loss by it, where it is a number) at the given step of the run."""

    def __init__(self, step, error):
        super().__init__()
        self.left, self.error = step, error

    def forward(self, outputs, x, labels):
        self.left -= 1
        if self.left != 0:
            return super().forward(outputs, x, labels)
        if isinstance(self.error, BaseException):
            raise self.error
        return super().forward(outputs, x, labels) * self.error


def accuracy(module, split):
    x = torch.from_numpy(split.read(np.arange(len(split))).x)
    return (module(x).argmax(1).numpy() == split.labels).mean()


@pytest.mark.parametrize("settings", [SGD, ALL], ids=["sgd", "everything on"])
def test_a_network_learns_and_comes_back_ready_for_use(split, settings):
    module, listener = network(), Listening()
    settings = settings.model_copy(update={"epochs": 15})
    history = fit(module, split, settings, HardLabels(), seed=0, progress=listener)
    assert accuracy(module, split) > 0.9
    assert not module.training
    assert all(parameter.is_contiguous() for parameter in module.parameters())
    assert all(parameter.requires_grad for parameter in module.parameters())
    assert [entry["epoch"] for entry in history] == list(range(1, 16))
    assert history[-1]["loss"] < history[0]["loss"]
    assert history[-1]["accuracy"] > 0.7
    assert json.loads(json.dumps(history)) == history
    assert listener.done == listener.total == 15 * 6
    assert any(metric.startswith("loss ") and " acc " in metric for metric in listener.metrics)


@pytest.mark.parametrize("settings", [SGD, ALL], ids=["sgd", "everything on"])
def test_a_seed_repeats_a_run_to_the_bit(split, settings):
    first, again, other = network(), network(), network()
    fit(first, split, settings, HardLabels(), seed=3)
    torch.rand(17)  # whatever the caller draws in between does not matter
    fit(again, split, settings, HardLabels(), seed=3)
    fit(other, split, settings, HardLabels(), seed=4)
    assert same_weights(first, again)
    assert not same_weights(first, other)


def test_the_callers_random_numbers_and_threads_stay_as_they_were(split):
    torch.manual_seed(9)
    threads, expected = torch.get_num_threads(), torch.rand(3)
    torch.manual_seed(9)
    fit(network_without_seeding(), split, SGD, HardLabels(), seed=0)
    assert torch.equal(torch.rand(3), expected)
    assert torch.get_num_threads() == threads


def network_without_seeding():
    with torch.random.fork_rng():
        return network()


@pytest.mark.parametrize("settings", [SGD, ALL], ids=["sgd", "everything on"])
@pytest.mark.parametrize("step", [3, 15, 24])
def test_an_interrupted_run_goes_on_to_the_same_weights(split, tmp_path, settings, step):
    undisturbed, disturbed = network(), network()
    history = fit(undisturbed, split, settings, HardLabels(), seed=5)
    with pytest.raises(RuntimeError, match="power cut"):
        fit(disturbed, split, settings, Stumbling(step, RuntimeError("power cut")), seed=5, scratch=tmp_path)
    resumed, listener = network(), Listening()
    objective = Counting()
    resumed_history = fit(resumed, split, settings, objective, seed=5, scratch=tmp_path, progress=listener)
    assert same_weights(resumed, undisturbed)
    assert [entry["loss"] for entry in resumed_history] == [entry["loss"] for entry in history]
    assert objective.calls == 24 - (step - 1) // 6 * 6
    assert listener.done == listener.total == 24
    assert listener.warnings == []


class Counting(HardLabels):
    calls = 0

    def forward(self, outputs, x, labels):
        self.calls += 1
        return super().forward(outputs, x, labels)


def test_ctrl_c_passes_and_leaves_the_last_epochs_checkpoint(split, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        fit(network(), split, SGD, Stumbling(15, KeyboardInterrupt()), seed=0, scratch=tmp_path)
    objective = Counting()
    fit(network(), split, SGD, objective, seed=0, scratch=tmp_path)
    assert objective.calls == 12


def test_a_finished_run_is_not_repeated(split, tmp_path):
    first, second = network(), network()
    fit(first, split, SGD, HardLabels(), seed=0, scratch=tmp_path)
    objective = Counting()
    fit(second, split, SGD, objective, seed=0, scratch=tmp_path)
    assert objective.calls == 0
    assert same_weights(first, second)


@pytest.mark.parametrize("damage", ["truncated", "other seed", "other settings", "other network", "other teacher"])
def test_a_checkpoint_that_is_damaged_or_of_another_run_is_ignored(split, tmp_path, damage):
    settings = SGD.model_copy(update={"epochs": 2})
    expected, module, listener = network(), network(), Listening()
    fit(expected, split, settings, with_teacher(), seed=0)
    before = network(1) if damage == "other network" else network()
    early = settings.model_copy(update={"epochs": 1}) if damage == "other settings" else settings
    teacher = with_teacher(7 if damage == "other teacher" else 6)
    fit(before, split, early, teacher, seed=1 if damage == "other seed" else 0, scratch=tmp_path)
    path = tmp_path / "checkpoint.pt"
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-200])
    fit(module, split, settings, with_teacher(), seed=0, scratch=tmp_path, progress=listener)
    assert same_weights(module, expected)
    assert len(listener.warnings) == 1
    assert ("damaged" if damage == "truncated" else "another run") in listener.warnings[0]


def with_teacher(seed=6):
    return WithTeacher(network(seed), labels=HardLabels())


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_the_run(split, tmp_path, value):
    with pytest.raises(StageFailed, match=r"epoch 3, step 2 of 6 \(learning rate 0\.0\d+") as caught:
        fit(network(), split, SGD, Stumbling(14, value), seed=0, scratch=tmp_path, label="distilling")
    assert caught.value.where == "distilling"
    assert "lr" in caught.value.fix
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["state"]
    assert len(state["history"]) == 2
    assert all(tensor.isfinite().all() for tensor in state["module"].values())


def test_a_last_step_that_ruins_the_weights_does_not_pass(split, tmp_path):
    class Exploding(HardLabels):
        def forward(self, outputs, x, labels):
            zero = (outputs - outputs.detach()).abs().sum().sqrt()  # whose gradient is infinite
            return super().forward(outputs, x, labels) + zero

    with pytest.raises(StageFailed, match=r"weight is not finite at epoch 1, step 1 of 1"):
        fit(network(), split, Fit(epochs=1, batch_size=192), Exploding(), seed=0, scratch=tmp_path)
    assert not list(tmp_path.iterdir())


def test_samples_that_are_streamed_train_as_those_in_memory(split, monkeypatch):
    held, streamed = network(), network()
    fit(held, split, ALL, HardLabels(), seed=0)
    monkeypatch.setattr(feed, "MEMORY_SHARE", 0.0)
    fit(streamed, split, ALL, HardLabels(), seed=0)
    assert same_weights(held, streamed)


def test_each_epoch_shows_each_sample_at_most_once_and_leaves_out_others(split):
    seen = []

    class Looking(HardLabels):
        def forward(self, outputs, x, labels):
            seen.extend(image.numpy().tobytes() for image in x)
            return super().forward(outputs, x, labels)

    fit(network(), split, Fit(epochs=8, batch_size=50), Looking(), seed=0)
    epochs = [seen[start : start + 150] for start in range(0, 8 * 150, 150)]
    assert all(len(set(epoch)) == 150 for epoch in epochs)
    assert len(set(seen)) == 192


def test_without_labels_a_teacher_is_enough(split):
    teacher, student = network(6), network(1)
    fit(teacher, split, SGD.model_copy(update={"epochs": 15}), HardLabels(), seed=0)
    unlabelled = replace(split, labels=None)
    settings = SGD.model_copy(update={"epochs": 25})
    history = fit(student, unlabelled, settings, WithTeacher(teacher, labels=HardLabels()), seed=0)
    assert "accuracy" not in history[-1]
    x = torch.from_numpy(split.read(np.arange(192)).x)
    assert (student(x).argmax(1) == teacher(x).argmax(1)).float().mean() > 0.95


def test_bf16_trains_in_fp32_weights(split):
    module = network()
    settings = SGD.model_copy(update={"epochs": 15, "precision": "bf16"})
    fit(module, split, settings, HardLabels(), seed=0)
    assert {parameter.dtype for parameter in module.parameters()} == {torch.float32}
    assert accuracy(module, split) > 0.95


def test_the_average_is_what_comes_back(split):
    plain, averaged = network(), network()
    fit(plain, split, SGD, HardLabels(), seed=0)
    fit(averaged, split, SGD.model_copy(update={"ema": 0.95}), HardLabels(), seed=0)
    assert not same_weights(plain, averaged)


def test_clipping_bounds_the_step(split):
    """One step of plain SGD moves the weights by at most lr * clip_norm."""
    moved = {}
    for clip in (None, 0.01):
        module, before = network(), network()
        settings = Fit.model_validate(
            {
                "epochs": 1,
                "batch_size": 192,
                "optimizer": {"kind": "sgd", "momentum": 0.0},
                "schedule": {"kind": "one_cycle", "warmup": 0.0},
                "weight_decay": 0.0,
                "clip_norm": clip,
            }
        )
        fit(module, split, settings, HardLabels(), seed=0)
        steps = [a.detach() - b.detach() for a, b in zip(module.parameters(), before.parameters(), strict=True)]
        moved[clip] = torch.cat([step.flatten() for step in steps]).norm().item()
    assert moved[None] > 0.01
    assert moved[0.01] == pytest.approx(0.1 * 0.01, rel=1e-3)


def test_norms_and_biases_do_not_decay():
    module = network()
    groups = SGD.optimizer.build(module.parameters(), 0.1, 0.5).param_groups
    assert [(group["weight_decay"], {p.ndim for p in group["params"]}) for group in groups] == [
        (0.5, {2, 4}),
        (0.0, {1}),
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"accelerator": "cuda", "devices": 64}, "64 CUDA"),
        ({"devices": 3}, "does not divide over 3"),
        ({"precision": "fp16", "accelerator": "cpu"}, "fp16"),
    ],
)
def test_settings_that_the_machine_cannot_do_are_refused(split, changes, message):
    with pytest.raises(UsageError, match=message):
        fit(network(), split, SGD.model_copy(update=changes), HardLabels(), seed=0)


def test_data_that_cannot_be_trained_on_is_refused(split):
    with pytest.raises(UsageError, match="no training images"):
        fit(network(), replace(split, index=split.index[:0]), SGD, HardLabels(), seed=0)
    flat = replace(split, source=type(split.source)(np.ones((192, 36), np.float32)), preprocess=None)
    with pytest.raises(UsageError, match="augmentation needs images"):
        fit(nn.Linear(36, 4), flat, SGD.model_copy(update={"augment": Augment(flip=True)}), HardLabels(), seed=0)
    fit(nn.Linear(36, 4), flat, SGD, HardLabels(), seed=0)
