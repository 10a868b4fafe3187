"""Sensitivity: groups whose loss is measured to be small lose more."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
from arrays import data_of
from heard import Heard

from edgeopt.data import Data
from edgeopt.model import Model
from edgeopt.model.profile import profile
from edgeopt.prune import Prune
from edgeopt.prune.accept import Proven, prune_proven, without
from edgeopt.prune.groups import Plan
from edgeopt.prune.ranking import Sensitivity
from edgeopt.prune.sensitivity import RATIOS, Curve, affordable, marginal, measure
from edgeopt.stage import Context


@pytest.fixture
def branches(make: SimpleNamespace) -> Model:
    """Two branches of one shape; what `idle` computes hardly reaches the output."""
    rng = np.random.default_rng(0)
    model: Model = make.build(
        """a = Conv(x, busy) b = Relu(a) c = Conv(b, loud) d = Conv(x, idle) e = Relu(d) f = Conv(e, quiet)
           s = Add(c, f) p = GlobalAveragePool(s) y = Flatten(p)""",
        {
            "busy": (32, 3, 1, 1),
            "loud": (5, 32, 1, 1),
            "idle": (32, 3, 1, 1),
            "quiet": rng.standard_normal((5, 32, 1, 1)).astype(np.float32) * 0.01,
        },
    )
    return model


@pytest.fixture
def images() -> Data:
    return data_of(np.random.default_rng(1).standard_normal((64, 3, 8, 8)).astype(np.float32))


def widths(model: Model, ranking: str, context: Context) -> tuple[dict[str, int], dict[str, object]]:
    stage = Prune.model_validate({"target": "macs=-40%", "ranking": ranking, "correction": None, "finetune": None})
    result = stage.apply(model, context)
    return {group["name"]: group["channels_after"] for group in result.facts["groups"]}, result.facts


def test_the_group_that_matters_less_loses_more(branches: Model, images: Data) -> None:
    context = Context(data=images)
    plain, _ = widths(branches, "local", context)
    ranked, facts = widths(branches, "sensitivity", context)
    assert plain["busy"] == plain["idle"]
    assert ranked["busy"] >= 28
    assert ranked["idle"] <= 12
    curves = {entry["group"]: entry["losses"] for entry in facts["sensitivity"]}  # type: ignore[attr-defined]
    assert len(curves["busy"]) == len(RATIOS)
    assert all(idle["loss"] < busy["loss"] / 100 for idle, busy in zip(curves["idle"], curves["busy"], strict=True))
    assert facts["sensitivity_measured_on"] == "64 images"


def test_without_a_word_it_is_measured_where_there_are_images(branches: Model, images: Data) -> None:
    stage = Prune.model_validate({"target": "macs=-40%", "correction": None, "finetune": None})
    heard = Heard()
    measured = stage.apply(branches, Context(data=images, progress=heard)).facts
    counted = stage.apply(branches, Context(progress=heard)).facts
    assert (measured["ranking"], counted["ranking"]) == ("sensitivity", "global")
    assert measured["sensitivity"]
    assert "sensitivity" not in counted
    assert not heard.warnings


def test_losses_are_measured_once_however_often_is_chosen(
    branches: Model, images: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check may refuse groups; what is left is chosen again."""
    calls = []
    real, proven = measure, prune_proven

    def refusing(model: Model, plan: Plan, choose: Callable[[Plan], np.ndarray], *, seed: int) -> Proven:
        choose(plan)
        return proven(model, without(plan, plan.groups[:1]), choose, seed=seed)

    monkeypatch.setattr("edgeopt.prune.ranking.measure", lambda *args, **named: calls.append(1) or real(*args, **named))
    monkeypatch.setattr("edgeopt.prune.stage.prune_proven", refusing)
    stage = Prune.model_validate({"target": "macs=-10%", "correction": None, "finetune": None})
    facts = stage.apply(branches, Context(data=images)).facts
    assert len(calls) == 1
    assert [entry["group"] for entry in facts["sensitivity"]] == ["idle"]


def test_a_large_network_is_looked_at_with_fewer_images(branches: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    assert affordable(branches, 2, 128) == 128
    assert affordable(branches, 2, 8) == 8
    macs = profile(branches).macs
    monkeypatch.setattr("edgeopt.prune.sensitivity.MACS", 40 * macs * 2 * len(RATIOS))
    assert affordable(branches, 2, 128) == 40
    monkeypatch.setattr("edgeopt.prune.sensitivity.MACS", 1)
    assert affordable(branches, 2, 128) == 16


def test_without_images_the_weights_decide_and_that_is_said(branches: Model) -> None:
    heard = Heard()
    ranked, facts = widths(branches, "sensitivity", Context(progress=heard))
    assert facts["sensitivity_measured_on"] == "weights"
    assert any("without images" in message for message in heard.warnings)
    assert min(ranked.values()) < 32


def test_time_that_runs_out_leaves_the_last_groups_unmeasured(
    branches: Model, images: Data, make: SimpleNamespace
) -> None:
    plan = make.plan_of(branches)
    scores = [np.ones(len(group)) for group in plan.groups]
    ticks = iter(range(100))
    curves = measure(
        branches, plan, scores, Context(data=images), images=8, seconds=1.5, clock=lambda: float(next(ticks))
    )
    assert [len(curve.losses) for curve in curves] == [1, 0]
    weighed = marginal(curves, scores, [0.1, 0.1])
    np.testing.assert_allclose(weighed[0], weighed[1])  # what was not measured counts as the others


def test_the_order_within_a_group_is_the_criterions() -> None:
    score = np.random.default_rng(0).random(40)
    curve = Curve("g", ((0.25, 0.3), (0.5, 0.2), (0.75, 2.0)))
    (weighed,) = marginal([curve], [score], [0.01])
    np.testing.assert_array_equal(np.argsort(weighed, kind="stable"), np.argsort(score, kind="stable"))


def test_what_saves_more_goes_first_at_equal_loss() -> None:
    curve = ((0.25, 0.1), (0.5, 0.3), (0.75, 0.9))
    cheap, dear = marginal([Curve("a", curve), Curve("b", curve)], [np.ones(8), np.ones(8)], [0.01, 0.02])
    np.testing.assert_allclose(cheap, 2 * dear)


def test_a_ranking_is_named_or_spelled_out() -> None:
    named = Prune.model_validate({"target": "macs=-40%", "ranking": "sensitivity"})
    spelled = Prune.model_validate({"target": "macs=-40%", "ranking": {"kind": "sensitivity", "images": 128}})
    assert named == spelled
    assert isinstance(named.ranking, Sensitivity)
    assert Prune.model_validate(named.model_dump()) == named
