import sys
from importlib import util

import pytest
from quarters import Failing
from small import SGD, Listening, network

from edgeopt.errors import StageFailed, UsageError
from edgeopt.stage import StageResult
from edgeopt.store import Store
from edgeopt.train.fit import fit
from edgeopt.train.objectives import HardLabels

WATCHED = SGD.model_copy(update={"tensorboard": True, "validation": 0.25})


def read(folder):
    """{name: [(step, value), ...]} by TensorBoard's own reader."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(folder))
    events.Reload()
    return {name: [(e.step, e.value) for e in events.Scalars(name)] for name in events.Tags()["scalars"]}


def test_event_files_hold_the_history(split, tmp_path):
    history = fit(network(), split, WATCHED, HardLabels(), seed=0, scratch=tmp_path)
    found = read(tmp_path / "tensorboard")
    assert [step for step, _ in found["epoch/loss"]] == [4, 8, 12, 16]
    for name in ("loss", "accuracy", "validation_loss", "validation_accuracy", "lr"):
        assert [value for _, value in found[f"epoch/{name}"]] == pytest.approx([entry[name] for entry in history])
    assert {"step/loss", "step/accuracy", "step/lr"} <= found.keys()
    assert found["step/lr"][-1][1] == pytest.approx(history[-1]["lr"])


def test_a_run_that_goes_on_shows_no_step_twice(split, tmp_path):
    class Spoiling(Failing):
        calls = 0

        def forward(self, outputs, x, labels):
            self.calls += 1
            return (HardLabels if self.calls < 14 else Failing).forward(self, outputs, x, labels)

    with pytest.raises(StageFailed):
        fit(network(), split, WATCHED, Spoiling(), seed=0, scratch=tmp_path)
    fit(network(), split, WATCHED, HardLabels(), seed=0, scratch=tmp_path)
    steps = [step for step, _ in read(tmp_path / "tensorboard")["epoch/loss"]]
    assert steps == [4, 8, 12, 16]


def test_nothing_is_written_unasked(split, tmp_path):
    fit(network(), split, SGD, HardLabels(), seed=0, scratch=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_what_is_missing_is_said_before_anything_is_computed(split, tmp_path, monkeypatch):
    listener = Listening()
    with pytest.raises(UsageError, match="need a folder"):
        fit(network(), split, WATCHED, HardLabels(), seed=0, progress=listener)
    monkeypatch.setattr(util, "find_spec", lambda name: None)
    monkeypatch.delitem(sys.modules, "edgeopt.train.events")
    from edgeopt.train.events import check_events

    with pytest.raises(UsageError, match="not installed") as caught:
        check_events(WATCHED, tmp_path, "training")
    assert "edgeopt[tensorboard]" in caught.value.fix
    assert listener.total == 0


def test_a_finished_stage_keeps_them(split, classifier, tmp_path):
    def work(scratch):
        fit(network(), split, WATCHED, HardLabels(), seed=0, scratch=scratch)
        fit(network(), split, WATCHED, HardLabels(), seed=0, scratch=scratch / "again")
        return StageResult(classifier())

    done = Store(tmp_path / "stages").do("01-train", "k" * 64, work)
    assert "epoch/loss" in read(done.folder / "tensorboard")
    assert "epoch/loss" in read(done.folder / "tensorboard" / "again")
    assert not list((tmp_path / "stages").glob(".scratch*"))
