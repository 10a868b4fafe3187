"""Schedules: targets in steps, each proved; what is killed or stopped goes on and ends the same."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from arrays import data_of
from pydantic import ValidationError

from edgeopt.data import Data
from edgeopt.errors import StageFailed
from edgeopt.model import Model
from edgeopt.model.runtime import open_session, run
from edgeopt.progress import Progress
from edgeopt.prune import Prune, apply_pruning
from edgeopt.prune.record import compose
from edgeopt.stage import Context, StageResult
from edgeopt.store import Store

ITERATIVE: dict[str, Any] = {
    "target": "params=-50%",
    "schedule": {"kind": "iterative", "steps": 3},
    "finetune": {"epochs": 2, "batch_size": 64, "lr": 0.01},
    "correction": None,
}
ONE_SHOT = ITERATIVE | {"schedule": {"kind": "one_shot"}, "finetune": {"epochs": 4, "batch_size": 64, "lr": 0.01}}


class Stops(Progress):
    """Raises `error` when a loop called `label` has advanced `steps` times; keeps warnings."""

    def __init__(self, label: str, steps: int, error: type[BaseException]) -> None:
        self.wanted, self.left, self.error = label, steps, error
        self.label = ""
        self.warnings: list[str] = []

    def start(self, label: str, total: int) -> None:
        self.label = label

    def advance(self, steps: int = 1, metric: str = "") -> None:
        if self.label == self.wanted and not metric.startswith("resumed"):
            self.left -= 1
            if self.left < 0:
                raise self.error

    def warn(self, message: str) -> None:
        self.warnings.append(message)


class Killed(BaseException):
    """As sudden as kill -9, within one process."""


@pytest.fixture(autouse=True)
def every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training says after each step how far it is."""
    monkeypatch.setattr("edgeopt.train.meter.REPORT_EVERY_S", 0.0)


@pytest.fixture
def network(make: SimpleNamespace) -> Model:
    model: Model = make.build(
        f"""a = Conv<pads=[1,1,1,1]>(x, c1) b = {make.bn("a", "bn_1")} r = Relu(b) c = Conv<pads=[1,1,1,1]>(r, c2)
            s = Relu(c) p = GlobalAveragePool(s) f = Flatten(p) y = Gemm<transB=1>(f, head)""",
        {"c1": (16, 3, 3, 3), "bn_1": 16, "c2": (24, 16, 3, 3), "head": (5, 24)},
    )
    return model


@pytest.fixture
def data(network: Model) -> Data:
    """Random images, labelled by the network itself."""
    x = np.random.default_rng(0).standard_normal((256, 3, 8, 8)).astype(np.float32)
    return data_of(x, run(open_session(network), x)[0].argmax(1))


def prune(settings: dict[str, Any], network: Model, context: Context) -> StageResult:
    return Prune.model_validate(settings).apply(network, context)


def assert_same(found: StageResult, expected: StageResult) -> None:
    """The same weights to the bit, the same record."""
    assert found.files == expected.files
    wanted = expected.model.weights()
    for name, array in found.model.weights().items():
        np.testing.assert_array_equal(array, wanted[name], err_msg=name)


def test_compose_is_one_record_after_the_other() -> None:
    array = np.arange(60).reshape(6, 10)
    first = [{"name": "w", "axis": 0, "kept": [0, 2, 3, 5]}, {"name": "v", "axis": 0, "kept": [1]}]
    second = [{"name": "w", "axis": 0, "kept": [1, 3]}, {"name": "w", "axis": 1, "kept": [4, 9]}]
    step_by_step = array.take([0, 2, 3, 5], 0).take([1, 3], 0).take([4, 9], 1)
    at_once = array
    for entry in compose(first, second):
        at_once = at_once.take(entry["kept"], entry["axis"]) if entry["name"] == "w" else at_once
    np.testing.assert_array_equal(at_once, step_by_step)
    assert {"name": "v", "axis": 0, "kept": [1]} in compose(first, second)


def test_an_iterative_schedule_reaches_the_target_in_steps(network: Model, data: Data) -> None:
    result = prune(ITERATIVE, network, Context(data=data))
    shares = [step["params"] / result.facts["params_before"] for step in result.facts["steps"]]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] > 0.7 > shares[1] > shares[2]
    assert 0.45 < shares[2] <= 0.5
    assert result.facts["epochs"] == len(result.facts["history"]) == 1 + 1 + 2
    assert result.facts["params_after"] == result.facts["steps"][-1]["params"]
    json.dumps(result.facts)


def test_the_record_of_all_steps_is_over_the_original_module(data: Data) -> None:
    """A stranger's module, cut by the record, takes the final weights and answers as the final ONNX model."""
    import torch
    from torch import nn

    from edgeopt.model.export import export_module

    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 24, 3), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 5),
    ).eval()  # fmt: skip
    result = prune(ITERATIVE, export_module(module, torch.randn(2, 3, 8, 8)), Context(data=data))
    apply_pruning(module, json.loads(result.files["pruned.json"]))
    weights = result.model.weights()
    state = {name: torch.from_numpy(weights[name].copy()) for name in module.state_dict() if name in weights}
    module.load_state_dict(state, strict=False)
    x = data.test.raw(np.arange(16))
    with torch.no_grad():
        found = module(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(found, run(open_session(result.model), x)[0], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "label", "steps"),
    [
        (ITERATIVE, "fine-tuning after step 1 of 3", 2),
        (ITERATIVE, "fine-tuning after step 2 of 3", 1),
        (ITERATIVE, "fine-tuning", 6),
        (ONE_SHOT, "fine-tuning", 9),
    ],
)
def test_what_is_killed_goes_on_and_ends_the_same(
    settings: dict[str, Any], label: str, steps: int, network: Model, data: Data, tmp_path: Path
) -> None:
    undisturbed = prune(settings, network, Context(data=data))
    with pytest.raises(Killed):
        prune(settings, network, Context(data=data, scratch=tmp_path, progress=Stops(label, steps, Killed)))
    again = Stops(label, 10**6, Killed)
    result = prune(settings, network, Context(data=data, scratch=tmp_path, progress=again))
    assert again.left > 10**6 - 20
    assert again.warnings == []
    assert_same(result, undisturbed)


@pytest.mark.slow
def test_steps_of_another_run_are_not_taken(network: Model, data: Data, tmp_path: Path) -> None:
    prune(ITERATIVE, network, Context(data=data, scratch=tmp_path))
    other = ITERATIVE | {"criterion": {"kind": "random"}}
    expected = prune(other, network, Context(data=data))
    found = prune(other, network, Context(data=data, scratch=tmp_path))
    assert_same(found, expected)


def test_ctrl_c_in_the_last_training_hands_back_a_network_that_reaches_the_target(
    network: Model, data: Data, tmp_path: Path
) -> None:
    stops = Stops("fine-tuning", 6, KeyboardInterrupt)
    result = prune(ONE_SHOT, network, Context(data=data, scratch=tmp_path, progress=stops))
    assert result.unfinished
    assert result.facts["stopped_by"] == "ctrl_c"
    assert len(result.facts["history"]) == 1
    assert result.facts["params_after"] <= 0.5 * result.facts["params_before"]
    assert "after 1 of 4 epochs" in stops.warnings[-1]
    later = prune(ONE_SHOT, network, Context(data=data, scratch=tmp_path))
    assert not later.unfinished
    assert_same(later, prune(ONE_SHOT, network, Context(data=data)))


@pytest.mark.slow
def test_ctrl_c_on_the_way_says_where_what_there_is_lies_and_the_next_run_goes_on(
    network: Model, data: Data, tmp_path: Path
) -> None:
    from edgeopt.model.load import read_onnx

    stops = Stops("fine-tuning after step 2 of 3", 1, KeyboardInterrupt)
    with pytest.raises(StageFailed, match=r"step 2 of 3, before params=-50% is reached.*partial") as failure:
        prune(ITERATIVE, network, Context(data=data, scratch=tmp_path, progress=stops))
    assert failure.value.exit_code == 3
    partial = read_onnx(tmp_path / "partial" / "model.onnx").weights()
    for entry in json.loads((tmp_path / "partial" / "pruned.json").read_text()):
        assert partial[entry["name"]].shape[entry["axis"]] == len(entry["kept"])
    later = prune(ITERATIVE, network, Context(data=data, scratch=tmp_path))
    assert_same(later, prune(ITERATIVE, network, Context(data=data)))


def test_a_stage_that_was_cut_short_is_done_again_from_its_scratch(network: Model, tmp_path: Path) -> None:
    store = Store(tmp_path)
    calls: list[bool] = []

    def work(scratch: Path) -> StageResult:
        calls.append((scratch / "checkpoint").exists())
        scratch.mkdir(exist_ok=True)
        (scratch / "checkpoint").touch()
        return StageResult(network, {"call": len(calls)}, unfinished=len(calls) == 1)

    found = [store.do("01-prune", "k" * 64, work).facts["call"] for _ in range(3)]
    assert found == [1, 2, 2]
    assert calls == [False, True]
    assert not list(tmp_path.glob(".scratch*"))


def test_steps_need_training_between_them() -> None:
    with pytest.raises(ValidationError, match="trains between its steps"):
        Prune.model_validate(ITERATIVE | {"finetune": None})
