"""A report on a detector says mAP wherever it would say accuracy, and is judged and compared by it."""

from __future__ import annotations

import pytest
from example_report import example_report

from edgeopt.gate import check
from edgeopt.gate.badge import tier_badge
from edgeopt.intervals import Z95, Resampled
from edgeopt.report import Limits, Report
from edgeopt.report.compare import compare_reports
from edgeopt.report.history import entry_of
from edgeopt.report.history_views import history_html
from edgeopt.report.html import to_html
from edgeopt.report.markdown import to_markdown


@pytest.fixture
def report() -> Report:
    """mAP 40 % (38 to 42), 0.8 points (0.1 to 1.5) under the float model, on 1,000 images."""
    example = example_report()
    figures = {"metric": "mAP", "accuracy": 0.4, "accuracy_low": 0.38, "accuracy_high": 0.42, "map50": 0.6}
    drops = {"drop_points": 0.8, "drop_low": 0.1, "drop_high": 1.5, "samples": 1000, "correct_bits": "", "changes": ()}
    row = example.tiers[0]
    base = row.baseline.model_copy(update={"accuracy": 0.408, "correct_bits": ""})
    row = row.model_copy(update=figures | drops | {"baseline": base, "agreement": None, "changed": None, "classes": ()})
    return example.model_copy(update={"tiers": (row,), "gate": ()})


def test_pages_say_map(report):
    for text in (to_markdown(report), to_html(report)):
        assert "mAP at IoU 0.5" in text
        assert "40.00 %" in text
        assert "Accuracy |" not in text
        assert ">Accuracy<" not in text
    assert "mAP against size" in to_html(report)
    assert "40.00 % mAP" in tier_badge(report.tiers[0], [])
    assert "mAP over 1 commits" in history_html([entry_of(report, ok=True)])


@pytest.mark.parametrize(
    ("limits", "outcome", "words"),
    [
        (
            {"drop": "2pt"},
            "pass",
            "0.80 pt mAP (95 % sure of at most 1.39 pt mAP, 1,000 images), allowed",
        ),
        ({"drop": "1.2pt"}, "cannot tell", "cannot tell with 1,000 samples"),
        ({"drop": "0.1pt"}, "fail", "over by 0.70 pt mAP"),
        ({"accuracy": "35%"}, "pass", "40.00 % mAP (95 % sure of at least 38.32 % mAP"),
        ({"accuracy": "45%"}, "fail", "under by 5.00 % mAP"),
    ],
)
def test_limits_are_judged_in_map_points(report, limits, outcome, words):
    (verdict,) = check(report, {"all": Limits.model_validate(limits)})
    assert verdict.outcome == outcome
    assert words in verdict.sentence


def test_two_reports_are_compared_by_their_intervals(report):
    row = report.tiers[0].model_copy(
        update={"accuracy": 0.3, "accuracy_low": 0.28, "accuracy_high": 0.32, "sha256": "9"}
    )
    other = report.model_copy(update={"tiers": (row,)})
    found = {own.quantity.limit: own for own in compare_reports(report, other, ("one", "other")).pairs[0].differences}
    assert found["accuracy"].outcome == "worse"
    assert (found["accuracy"].low, found["accuracy"].high) == pytest.approx((-10 - 2 * 2**0.5, -10 + 2 * 2**0.5))


def test_accuracy_and_map_are_not_compared(report):
    other = report.model_copy(update={"tiers": (report.tiers[0].model_copy(update={"metric": "accuracy"}),)})
    found = {own.quantity.limit: own for own in compare_reports(report, other, ("one", "other")).pairs[0].differences}
    assert found["accuracy"].outcome == "cannot tell"


def test_four_times_the_images_halve_the_interval():
    once = Resampled(0.4, 0.36, 0.42, 100)
    assert once.interval(Z95) == pytest.approx((0.36, 0.42))
    assert once.grown(4).interval(Z95) == pytest.approx((0.38, 0.41))
    assert once.grown(4).samples == 400
