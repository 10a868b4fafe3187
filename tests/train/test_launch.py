"""Several processes give what one gives, at equal batch: spawned and under torchrun, with whole and sharded weights."""

import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from quarters import Failing, Leaving, make_classifier
from torch import distributed, nn

from edgeopt.data.mapped import MappedImages
from edgeopt.errors import StageFailed, UsageError
from edgeopt.model.export import export_module
from edgeopt.model.load import read_onnx, save_model
from edgeopt.model.to_torch import to_torch
from edgeopt.model.torch_ops.shared import batch_norm_of_all
from edgeopt.progress import Progress
from edgeopt.train import Fit
from edgeopt.train.fit import fit
from edgeopt.train.job import Job, check_job, plan
from edgeopt.train.objectives import HardLabels, WithTeacher

SETTINGS = Fit(epochs=3, batch_size=32)
TWO = SETTINGS.model_copy(update={"devices": 2, "accelerator": "cpu"})
SHARDED = TWO.model_copy(update={"strategy": "fsdp", "ema": 0.9, "clip_norm": 1.0})


def network():
    """Convolution, BatchNormalization, Relu, linear, as a recipe's networks are."""
    return to_torch(make_classifier(width=8))


class Listening(Progress):
    done = total = 0

    def start(self, label, total):
        self.total = total

    def advance(self, steps=1, metric=""):
        self.done += steps


def job(settings, split):
    return Job(network(), split, settings, HardLabels(), 0, Progress(), None, "training")


def assert_same(one, other, history, theirs):
    for name, tensor in one.state_dict().items():
        torch.testing.assert_close(other.state_dict()[name], tensor, rtol=1e-3, atol=1e-5)
    for ours, entry in zip(history, theirs, strict=True):
        assert entry["loss"] == pytest.approx(ours["loss"], rel=1e-3)
        assert entry["accuracy"] == pytest.approx(ours["accuracy"], abs=0.01)


@pytest.mark.slow
def test_two_processes_train_as_one(split, classifier, tmp_path):
    one, two, listener = network(), network(), Listening()
    objective = WithTeacher(to_torch(classifier(seed=5)), temperature=2.0, alpha=0.5, labels=HardLabels())
    history = fit(one, split, SETTINGS, objective, seed=0)
    spread = fit(two, split, TWO, objective, seed=0, progress=listener, scratch=tmp_path)
    assert_same(one, two, history, spread)
    assert listener.done == listener.total == 18
    assert (tmp_path / "checkpoint.pt").exists()


@pytest.mark.slow
def test_sharded_weights_train_as_whole_ones_and_go_on_from_a_checkpoint(split, tmp_path):
    one, two = network(), network()
    alone = SHARDED.model_copy(update={"devices": 1, "strategy": "ddp"})
    history = fit(one, split, alone, HardLabels(), seed=0)
    with pytest.raises(StageFailed, match="power cut"):
        fit(two, split, SHARDED, Leaving(9), seed=0, scratch=tmp_path)
    listener = Listening()
    spread = fit(two, split, SHARDED, HardLabels(), seed=0, scratch=tmp_path, progress=listener)
    assert_same(one, two, history, spread)
    assert not any(type(parameter).__name__ == "DTensor" for parameter in two.parameters())
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["state"]
    shapes = {name: tensor.shape for name, tensor in one.state_dict().items()}
    assert {name: tensor.shape for name, tensor in state["module"].items()} == shapes
    assert {name: tensor.shape for name, tensor in state["average"]["values"].items()} == shapes
    momenta = [entry["momentum_buffer"].shape for entry in state["optimizer"]["state"].values()]
    assert sorted(momenta) == sorted(parameter.shape for parameter in one.parameters())


@pytest.mark.slow
def test_a_failure_in_a_process_is_the_same_sentence(split):
    with pytest.raises(StageFailed, match="the loss is not finite at epoch 1, step 1 of 6"):
        fit(network(), split, TWO, Failing(), seed=0)


RECIPE = """\
model: net.onnx
data: digits
stages:
  - {kind: train, fit: {epochs: 2, batch_size: 64, accelerator: cpu, strategy: fsdp}}
  - {kind: train, fit: {epochs: 1, batch_size: 64, accelerator: cpu, lr: 0.01}}
"""


@pytest.mark.slow
def test_a_command_under_torchrun_gives_what_it_gives_alone(tmp_path):
    """Twice two gloo processes in one run: sharded, then whole; process 0 alone writes."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(72, 10)]
    save_model(export_module(nn.Sequential(*layers), torch.zeros(2, 1, 8, 8)), tmp_path / "net.onnx")
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    for start, out in (([], "one"), (torchrun, "two")):
        command = [sys.executable, *start, "-m", "edgeopt", "run", "recipe.yaml", "--out", out]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("tables") == 1
    one, two = (read_onnx(tmp_path / out / "model.onnx") for out in ("one", "two"))
    for name, value in one.graph.graph.initializers.items():
        ours, theirs = (model.graph.graph.initializers[name].const_value.numpy() for model in (one, two))
        torch.testing.assert_close(torch.from_numpy(theirs), torch.from_numpy(ours), rtol=1e-3, atol=1e-4)
        assert value.const_value is not None
    stages = json.loads((tmp_path / "two" / "report.json").read_text())["stages"]
    assert [stage["settings"]["fit"]["devices"] for stage in stages[1:3]] == [2, 2]


def test_settings_and_processes_that_do_not_go_together_are_told(split, monkeypatch):
    with pytest.raises(UsageError, match=r"torchrun --nnodes 2 --nproc-per-node 4 .* -m edgeopt "):
        check_job(job(SETTINGS.model_copy(update={"devices": 4, "nodes": 2, "accelerator": "cpu"}), split))
    with pytest.raises(UsageError, match="a batch of 32 does not divide over 3 devices"):
        check_job(job(TWO.model_copy(update={"devices": 3}), split))
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(UsageError, match=r"2 process.* on each of 2 machine.*devices 2, nodes 1"):
        check_job(job(TWO, split))
    check_job(job(TWO.model_copy(update={"nodes": 2}), split))


@pytest.mark.parametrize(
    ("changes", "strategy"),
    [
        ({}, "SingleDeviceStrategy"),
        ({"strategy": "fsdp"}, "SingleDeviceStrategy"),
        ({"devices": 2}, "DDPStrategy"),
        ({"devices": 2, "strategy": "fsdp"}, "Sharded"),
    ],
)
def test_the_strategy_is_that_of_the_settings(split, monkeypatch, changes, strategy):
    monkeypatch.setenv("SLURM_NTASKS", "7")  # a job of a cluster around it is none of its business
    fabric, _ = plan(job(SETTINGS.model_copy(update={"accelerator": "cpu", **changes}), split))
    assert type(fabric.strategy).__name__ == strategy


def test_batch_norm_of_all_processes_is_torchs_where_there_is_one():
    torch.manual_seed(0)
    inputs = [torch.randn(6, 3, 4, 4), torch.rand(3) + 0.5, torch.randn(3)]
    weights = torch.randn(6, 3, 4, 4)
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        results = []
        for normalize in (batch_norm_of_all, None):
            x, scale, bias = (tensor.clone().requires_grad_() for tensor in inputs)
            mean, variance = torch.zeros(3), torch.ones(3)
            if normalize is not None:
                y = normalize(x, mean, variance, scale, bias, 0.1, 1e-5)
            else:
                y = nn.functional.batch_norm(x, mean, variance, scale, bias, True, 0.1, 1e-5)
            (y * weights).sum().backward()
            results.append([y, mean, variance, x.grad, scale.grad, bias.grad])
    finally:
        distributed.destroy_process_group()
    for ours, torchs in zip(*results, strict=True):
        torch.testing.assert_close(ours, torchs, rtol=1e-4, atol=1e-5)


def test_samples_go_to_other_processes(tmp_path: Path):
    source = MappedImages(([(torch.zeros(1, 2, 2), 0)] * 3,), "data.py:make", None)
    there = pickle.loads(pickle.dumps(source))
    assert len(there) == 3
    assert there.item(1)[0].shape == (1, 2, 2)
