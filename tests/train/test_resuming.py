"""A run that was killed goes on and ends with the same weights to the bit, whatever is switched on."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from dying import Unlearning, killed
from small import ALL, SGD, network, same_weights
from torch import nn

from edgeopt.errors import StageFailed
from edgeopt.train import Fit, meter, run
from edgeopt.train.fit import fit
from edgeopt.train.objectives import HardLabels, WithTeacher
from edgeopt.train.validation import best_epoch

OPTIONS = {
    "plain": {},
    "parts": {"accumulate": 3},
    "mixup": {"augment": {"mixup": 0.3}},
    "mixup and cutmix": {"augment": {"mixup": 0.3, "cutmix": 1.0, "flip": True}},
    "randaugment": {"augment": {"randaugment": {"ops": 2, "magnitude": 9}}},
    "average": {"ema": 0.9},
    "best kept": {"validation": 0.25, "keep": "best"},
    "best average kept": {"validation": 0.25, "keep": "best", "ema": 0.8},
    "patience": {"validation": 0.25, "patience": 1},
    "bf16": {"precision": "bf16", "clip_norm": 1.0},
    "event files": {"tensorboard": True},
    "adamw, cosine": {"optimizer": {"kind": "adamw"}, "schedule": {"kind": "cosine"}, "lr": 0.02},
    "all together": ALL.model_dump()
    | {
        "epochs": 3,
        "batch_size": 24,
        "accumulate": 2,
        "validation": 0.25,
        "keep": "best",
        "patience": 2,
        "tensorboard": True,
        "augment": {"crop_pad": 1, "rotate": 5, "erase": 0.2, "mixup": 0.2, "cutmix": 1.0, "randaugment": {}},
    },
}


def settings_of(options):
    return Fit.model_validate({"epochs": 3, "batch_size": 24} | options)


class Counting(HardLabels):
    calls = 0

    def forward(self, outputs, x, labels):
        self.calls += torch.is_grad_enabled()
        return super().forward(outputs, x, labels)


@pytest.mark.parametrize(
    ("name", "often"), [*((name, True) for name in OPTIONS), ("plain", False), ("all together", False)]
)
def test_kill_9_and_again_ends_with_the_same_weights(split, tmp_path, monkeypatch, name, often):
    monkeypatch.setattr(run, "SAVE_EVERY_S", 0.0 if often else math.inf)
    settings = settings_of(OPTIONS[name])
    whole, resumed = network(), network()
    history = fit(whole, split, settings, HardLabels(), seed=5, scratch=tmp_path / "whole")
    parts, steps = settings.accumulate, (144 if settings.validation else 192) // 24
    killed(split, settings, tmp_path / "cut", (steps + 3) * parts)
    objective = Counting()
    again = fit(resumed, split, settings, objective, seed=5, scratch=tmp_path / "cut")
    assert same_weights(resumed, whole)
    seen = ("epoch", "loss", "accuracy", "validation_loss", "validation_accuracy", "lr")
    assert [[entry.get(key) for key in seen] for entry in again] == [
        [entry.get(key) for key in seen] for entry in history
    ]
    lost = 2 if often else 0  # of the second epoch; the third step was not saved yet
    assert objective.calls == (len(history) * steps - steps - lost) * parts


def test_the_best_epoch_of_before_the_kill_is_what_comes_back(split, tmp_path):
    settings = settings_of({"validation": 0.25, "keep": "best", "clip_norm": 0.5})
    whole, resumed = network(), network()
    history = fit(whole, split, settings, Unlearning(-1), seed=5)
    assert best_epoch(history) == 1
    killed(split, settings, tmp_path, 6 + 3, Unlearning)
    fit(resumed, split, settings, Unlearning(-1), seed=5, scratch=tmp_path)
    assert same_weights(resumed, whole)


def test_a_place_in_the_epoch_is_where_it_goes_on(split, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "SAVE_EVERY_S", 0.0)
    killed(split, settings_of({}), tmp_path, 21)
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["state"]
    assert len(state["history"]) == 2
    assert state["meter"]["step"] == 4


class Projecting(nn.Module):
    """Learns something itself."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(2)
        self.layer = nn.Linear(4, 4)

    def forward(self, outputs, x, labels):
        return nn.functional.cross_entropy(self.layer(outputs), labels)


def test_what_the_objective_learns_is_kept_too(split, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "SAVE_EVERY_S", 0.0)
    settings, objectives, networks = settings_of({}), [Projecting(), Projecting()], [network(), network()]
    fit(networks[0], split, settings, objectives[0], seed=5)

    ending = run.Run._end_epoch
    with monkeypatch.context() as patch:
        patch.setattr(run.Run, "_end_epoch", lambda self, epoch: ending(self, 1 // (1 - epoch) * epoch))
        with pytest.raises(ZeroDivisionError):
            fit(network(), split, settings, Projecting(), seed=5, scratch=tmp_path)
    fit(networks[1], split, settings, objectives[1], seed=5, scratch=tmp_path)
    assert same_weights(*networks)
    assert same_weights(*objectives)


class Looking(HardLabels):
    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, outputs, x, labels):
        self.seen.append(x.clone())
        return super().forward(outputs, x, labels)


@pytest.mark.parametrize("augment", [{"mixup": 0.3, "cutmix": 1.0}, {"randaugment": {}}, {"erase": 1.0}])
def test_draws_do_not_depend_on_what_the_network_draws(split, augment):
    """A view is the same whatever network looks at it: a teacher's answers to it can be kept."""
    seen = []
    for module in (network(), nn.Sequential(*[layer for layer in network() if not isinstance(layer, nn.Dropout)])):
        objective = Looking()
        fit(module, split, settings_of({"augment": augment, "epochs": 2}), objective, seed=1)
        seen.append(torch.stack(objective.seen))
    assert torch.equal(*seen)
    objective = Looking()
    fit(network(), split, settings_of({"augment": augment, "epochs": 2}), objective, seed=1, views=1)
    first, second = torch.stack(objective.seen).chunk(2)
    assert torch.equal(first, second)
    assert torch.equal(first, seen[0].chunk(2)[0])
    assert not torch.equal(*seen[0].chunk(2))


def test_parts_of_a_batch_make_the_step_of_the_whole(split):
    """Without BatchNormalization, whose statistics are of each part."""

    def plain():
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(1, 8, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 4))

    whole, parts = plain(), plain()
    options = {"precision": "fp32", "clip_norm": 0.5, "batch_size": 50}
    histories = [
        fit(module, split, settings_of(options | {"accumulate": accumulate}), HardLabels(), seed=0)
        for module, accumulate in ((whole, 1), (parts, 4))
    ]
    for one, other in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
    for one, other in zip(*histories, strict=True):
        assert other["loss"] == pytest.approx(one["loss"], rel=1e-4)
        assert other["accuracy"] == pytest.approx(one["accuracy"], abs=1e-6)


class Spoiling(HardLabels):
    """Not finite from the given call on."""

    def __init__(self, call):
        super().__init__()
        self.left = call

    def forward(self, outputs, x, labels):
        self.left -= 1
        return super().forward(outputs, x, labels) * (math.nan if self.left <= 0 else 1.0)


@pytest.mark.parametrize("often", [False, True])
def test_divergence_in_a_part_of_a_batch_names_the_step_and_leaves_the_checkpoint(split, tmp_path, monkeypatch, often):
    monkeypatch.setattr(run, "SAVE_EVERY_S", 0.0 if often else math.inf)
    monkeypatch.setattr(meter, "REPORT_EVERY_S", math.inf)  # so that a save comes before the next report
    settings = settings_of({"accumulate": 4, "batch_size": 32, "validation": 0.0})
    with pytest.raises(StageFailed, match=r"epoch 2, step 3 of 6 \(learning rate 0\.0\d+"):
        fit(network(), split, settings, Spoiling(4 * (6 + 2) + 2), seed=0, scratch=tmp_path)
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["state"]
    assert len(state["history"]) == 1
    assert state["meter"]["step"] == (2 if often else 0)
    assert all(tensor.isfinite().all() for tensor in state["module"].values())


@pytest.mark.parametrize("augment", [{"mixup": 0.2}, {"cutmix": 1.0}, {"mixup": 0.2, "cutmix": 1.0}])
def test_mixed_images_teach_with_labels_with_a_teacher_and_without_labels(split, augment):
    settings = settings_of({"augment": augment, "epochs": 25})
    module = network()
    history = fit(module, split, settings, HardLabels(), seed=0)
    right = (module(torch.from_numpy(split.read(np.arange(192)).x)).argmax(1).numpy() == split.labels).mean()
    assert right > 0.9
    assert 0.4 < history[-1]["accuracy"] <= 1
    student = network(1)
    history = fit(student, replace(split, labels=None), settings, WithTeacher(module), seed=0)
    x = torch.from_numpy(split.read(np.arange(192)).x)
    assert (student(x).argmax(1) == module(x).argmax(1)).float().mean() > 0.9
    assert "accuracy" not in history[-1]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="fp16 and its loss scale need a GPU")
def test_the_loss_scale_of_fp16_is_kept(split, tmp_path):
    settings = SGD.model_copy(update={"precision": "fp16", "accelerator": "cuda"})
    torch.use_deterministic_algorithms(True, warn_only=True)
    whole, resumed = network(), network()
    fit(whole, split, settings, HardLabels(), seed=5)
    with pytest.raises(StageFailed):
        fit(network(), split, settings, Spoiling(15), seed=5, scratch=tmp_path)
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["state"]["precision"]["scale"] > 0
    fit(resumed, split, settings, HardLabels(), seed=5, scratch=tmp_path)
    for one, other in zip(whole.parameters(), resumed.parameters(), strict=True):
        torch.testing.assert_close(one, other)
