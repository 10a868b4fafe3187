"""Accuracy charts: which models are on them, at which figures, under which names."""

from __future__ import annotations

import pytest
from example_report import BASELINE, example_report, example_row

from edgeopt.report.points import CHARTS, Chart, draw, left_out


@pytest.mark.parametrize("chart", CHARTS, ids=lambda chart: chart.figure)
def test_a_chart_has_the_float_model_every_stage_and_every_artifact_at_their_figures(chart: Chart) -> None:
    report = example_report()
    drawn = draw(report, chart)
    assert drawn is not None
    title, figures = drawn
    assert title.startswith("Accuracy against")
    found = [(point["kind"], point["x"], point["y"]) for point in figures["points"]]
    shared = [stage for stage in report.stages if stage.tier is None and chart.cost(stage) is not None]
    wanted = [("baseline", chart.cost(BASELINE), BASELINE.accuracy)]
    wanted += [("stage", chart.cost(stage), stage.accuracy) for stage in shared]
    wanted += [("tier", chart.cost(row), row.accuracy) for row in report.tiers]
    assert found == wanted


def test_every_point_says_its_name_its_figures_and_its_interval() -> None:
    drawn = draw(example_report(), CHARTS[0])
    assert drawn is not None
    tips = [point["tip"] for point in drawn[1]["points"]]
    assert "distill (float): 98.61 % (95 % interval 96.79 to 99.41 %) at 61 KB" in tips
    assert "Stage 3, Prune 27 % of the MACs: 98.33 % at 46.9 KB" in tips
    assert "mcu (int8): 98.06 % (95 % interval 96.06 to 99.06 %) at 18.2 KB" in tips


def test_no_chart_without_its_figures() -> None:
    rows = tuple(row.model_copy(update={"latency_ms": None}) for row in example_report().tiers)
    assert draw(example_report(tiers=rows), CHARTS[1]) is None


def test_a_network_before_its_training_is_left_out_and_told() -> None:
    stages = example_report().stages
    raw = stages[0].model_copy(update={"index": 0, "title": "untrained", "accuracy": 0.1})
    report = example_report(stages=(raw, *stages))
    drawn = draw(report, CHARTS[0])
    assert drawn is not None
    assert "untrained" not in {point["name"] for point in drawn[1]["points"]}
    assert left_out(report) == [raw]


def test_without_labels_agreement_is_drawn_against_a_float_model_that_agrees_with_itself() -> None:
    base = BASELINE.model_copy(update={"accuracy": None})
    row = example_row("mcu", accuracy=None, accuracy_low=None, accuracy_high=None, drop_points=None, baseline=base)
    drawn = draw(example_report(tiers=(row,)), CHARTS[0])
    assert drawn is not None
    assert drawn[0] == "Agreement with the float model against size"
    assert [(point["kind"], point["y"]) for point in drawn[1]["points"]] == [("baseline", 1.0), ("tier", row.agreement)]
