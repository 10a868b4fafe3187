"""Charts: points lie where their figures say."""

from __future__ import annotations

import math
import re
from xml.etree import ElementTree

import pytest
from example_report import example_report
from hypothesis import given
from hypothesis import strategies as st

from edgeopt.report.chart import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Point, line, scatter
from edgeopt.report.points import CHARTS, draw
from edgeopt.report.scale import MOST_TICKS, linear_axis, size_axis

sizes = st.lists(st.floats(1e-3, 1e12), min_size=1, max_size=8)


@given(sizes)
def test_every_figure_lies_on_its_axis_in_order(values: list[float]) -> None:
    axis = size_axis("", values, str)
    places = [axis.place(value) for value in sorted(values)]
    assert all(-1e-9 <= place <= 1 + 1e-9 for place in places)
    assert places == sorted(places)
    assert all(-1e-9 <= axis.place(tick) <= 1 + 1e-9 for tick in axis.ticks)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_a_share_never_gets_an_axis_past_one(values: list[float]) -> None:
    axis = linear_axis("", values, str, floor=0.0, ceiling=1.0)
    assert 0 <= axis.low < axis.high <= 1
    assert all(axis.low - 1e-9 <= tick <= axis.high + 1e-9 for tick in axis.ticks)
    assert 1 <= len(axis.ticks) <= 2 * MOST_TICKS


def test_a_factor_of_ten_is_one_step_on_a_logarithmic_axis() -> None:
    axis = size_axis("", [1e3, 1e6], str)
    assert axis.logarithmic
    steps = [axis.place(10.0**n) for n in (3, 4, 5, 6)]
    assert steps[1] - steps[0] == pytest.approx(steps[3] - steps[2])


def test_the_better_model_is_higher_and_the_smaller_is_further_left() -> None:
    points = [
        Point("small", "tier", x=10, y=0.9, tip="small"),
        Point("large", "tier", x=40, y=0.95, tip="large"),
    ]
    svg = scatter(points, size_axis("", [10, 40], str), linear_axis("", [0.9, 0.95], str), "t")
    small, large = (
        [float(n) for n in re.search(rf'aria-label="{name}".*?cx="([\d.]+)" cy="([\d.]+)"', svg).groups()]  # type: ignore[union-attr]
        for name in ("small", "large")
    )
    assert small[0] < large[0]
    assert small[1] > large[1]
    assert LEFT <= small[0] <= WIDTH - RIGHT
    assert TOP <= large[1] <= HEIGHT - BOTTOM


@pytest.mark.parametrize("chart", CHARTS, ids=lambda chart: chart.figure)
def test_a_chart_is_well_formed_and_names_every_model_that_has_its_figures(chart: object) -> None:
    report = example_report()
    drawn = draw(report, chart)  # type: ignore[arg-type]
    assert drawn is not None
    title, svg = drawn
    root = ElementTree.fromstring(svg)
    tips = [node.get("data-tip") or "" for node in root.iter() if node.get("data-tip")]
    assert title.startswith("Accuracy against")
    for name in ("mcu (int8): 98.06 %", "gpu (fp16): 98.61 %", "distill (float): 98.61 %"):
        assert any(tip.startswith(name) for tip in tips)
    staged = [stage for stage in report.stages if stage.tier is None and getattr(stage, chart.figure) is not None]  # type: ignore[attr-defined]
    assert sum(tip.startswith("Stage") for tip in tips) == len(staged)


def test_no_chart_without_its_figures() -> None:
    rows = tuple(row.model_copy(update={"latency_ms": None}) for row in example_report().tiers)
    assert draw(example_report(tiers=rows), CHARTS[1]) is None


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=2, max_size=40))
def test_a_curve_stays_inside_its_picture(values: list[float]) -> None:
    root = ElementTree.fromstring(line(values, "loss", "a to b"))
    polyline = next(node for node in root if node.tag == "polyline")
    for pair in (polyline.get("points") or "").split():
        left, top = map(float, pair.split(","))
        assert 0 <= left <= 220
        assert 0 <= top <= 64
        assert math.isfinite(left + top)
