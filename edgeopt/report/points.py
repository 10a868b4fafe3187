"""Which models a report puts on its accuracy charts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from edgeopt.report.figures import metric_heading, milliseconds, percent
from edgeopt.report.report import Baseline, Report, Row, StageRow
from edgeopt.units import format_bytes

__all__ = ["CHARTS", "Chart", "draw", "left_out"]

FAR_BELOW = 0.5
"""A stage with less than this share of the baseline's accuracy, such as a network before its training, would flatten
everything else: it stands in the list of stages only."""

Costed = Row | StageRow | Baseline
Point = dict[str, Any]


@dataclass(frozen=True)
class Chart:
    """Accuracy against one cost."""

    title: str
    axis: str
    unit: str
    """Of the axis, as page.js knows it."""
    figure: str
    """A field that Row, StageRow and Baseline all have."""
    format: Callable[[float], str]

    def cost(self, model: Costed) -> float | None:
        value: float | None = getattr(model, self.figure)
        return value


CHARTS = (
    Chart("Accuracy against size", "size of the file", "bytes", "size_bytes", format_bytes),
    Chart("Accuracy against latency", "median latency", "ms", "latency_ms", milliseconds),
    Chart("Accuracy against RAM", "peak activation RAM", "bytes", "peak_ram_bytes", format_bytes),
)


def draw(report: Report, chart: Chart) -> tuple[str, dict[str, Any]] | None:
    """Title and figures of page.js's `tradeoff`, or None when no artifact has both figures.

    Where the data has no labels, agreement with the float model stands in for accuracy.
    """
    labelled = any(row.accuracy is not None for row in report.tiers)
    points = _points(report, chart, labelled)
    if not any(point["kind"] == "tier" for point in points):
        return None
    shown = metric_heading(report.metric) if labelled else "Agreement with the float model"
    title = chart.title.replace("Accuracy", shown)
    heading = report.metric if labelled else "agreement"
    return title, {"x": chart.axis, "y": heading, "unit": chart.unit, "points": points}


def left_out(report: Report) -> list[StageRow]:
    """Stages that are too far below to be on the charts."""
    floor = _floor(report)
    return [stage for stage in report.stages if stage.accuracy is not None and stage.accuracy < floor]


def _floor(report: Report) -> float:
    return FAR_BELOW * max((row.baseline.accuracy or 0.0 for row in report.tiers), default=0.0)


def _points(report: Report, chart: Chart, labelled: bool) -> list[Point]:
    points = [_baseline(base, chart, labelled) for base in dict.fromkeys(row.baseline for row in report.tiers)]
    floor = _floor(report)
    shared = [stage for stage in report.stages if labelled and stage.tier is None]
    points += [_stage(stage, chart) for stage in shared if (stage.accuracy or 0.0) >= floor]
    points += [_tier(row, chart, labelled, n) for n, row in enumerate(report.tiers)]
    return [point for point in points if point is not None]


def _baseline(base: Baseline, chart: Chart, labelled: bool) -> Point | None:
    share = base.accuracy if labelled else 1.0
    ends = (base.accuracy_low, base.accuracy_high) if labelled else (None, None)
    return _point("baseline", "float", base.name, chart.cost(base), share, ends, chart)


def _stage(stage: StageRow, chart: Chart) -> Point | None:
    name = f"Stage {stage.index}, {stage.title}"
    point = _point("stage", stage.title, name, chart.cost(stage), stage.accuracy, (None, None), chart)
    return None if point is None else point | {"mark": str(stage.index)}


def _tier(row: Row, chart: Chart, labelled: bool, color: int) -> Point | None:
    share = row.accuracy if labelled else row.agreement
    ends = (row.accuracy_low, row.accuracy_high) if labelled else (None, None)
    name = f"{row.tier} ({row.precision})" if row.precision else row.tier
    point = _point("tier", row.tier, name, chart.cost(row), share, ends, chart)
    return None if point is None else point | {"color": color}


def _point(
    kind: str,
    label: str,
    name: str,
    cost: float | None,
    share: float | None,
    ends: tuple[float | None, float | None],
    chart: Chart,
) -> Point | None:
    if cost is None or share is None:
        return None
    low, high = ends
    interval = "" if low is None or high is None else f" (95 % interval {100 * low:.2f} to {percent(high)})"
    tip = f"{name}: {percent(share)}{interval} at {chart.format(cost)}"
    return {"kind": kind, "name": label, "x": cost, "y": share, "low": low, "high": high, "tip": tip}
