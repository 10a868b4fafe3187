"""Which models a report puts on its accuracy charts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from edgeopt.report.chart import Point, scatter
from edgeopt.report.figures import milliseconds, percent
from edgeopt.report.report import Baseline, Report, Row, StageRow
from edgeopt.report.scale import linear_axis, size_axis
from edgeopt.units import format_bytes

__all__ = ["CHARTS", "Chart", "draw"]

FAR_BELOW = 0.5
"""A stage with less than this share of the baseline's accuracy, such as a network before its training, would flatten
everything else: it stands in the list of stages only."""

Costed = Row | StageRow | Baseline


@dataclass(frozen=True)
class Chart:
    """Accuracy against one cost."""

    title: str
    axis: str
    figure: str
    """A field that Row, StageRow and Baseline all have."""
    format: Callable[[float], str]

    def cost(self, model: Costed) -> float | None:
        value: float | None = getattr(model, self.figure)
        return value


CHARTS = (
    Chart("Accuracy against size", "Size of the file", "size_bytes", format_bytes),
    Chart("Accuracy against latency", "Median latency", "latency_ms", milliseconds),
    Chart("Accuracy against RAM", "Peak activation RAM", "peak_ram_bytes", format_bytes),
)


def draw(report: Report, chart: Chart) -> tuple[str, str] | None:
    """Title and SVG, or None when no artifact has both figures.

    Where the data has no labels, agreement with the float model stands in for accuracy.
    """
    labelled = any(row.accuracy is not None for row in report.tiers)
    points = _points(report, chart, labelled)
    if not any(point.kind == "tier" for point in points):
        return None
    title = chart.title if labelled else chart.title.replace("Accuracy", "Agreement with the float model")
    shares = [share for p in points for share in (p.y, p.low, p.high) if share is not None]
    y = linear_axis("", shares, _tick(shares), floor=0.0, ceiling=1.0 + 0.02 * (max(shares) - min(shares)))
    return title, scatter(points, size_axis(chart.axis, [p.x for p in points], chart.format), y, title)


def _tick(shares: list[float]) -> Callable[[float], str]:
    decimals = 1 if max(shares) - min(shares) < 0.04 else 0
    return lambda share: f"{100 * share:.{decimals}f} %"


def _points(report: Report, chart: Chart, labelled: bool) -> list[Point]:
    points = [_baseline(base, chart, labelled) for base in dict.fromkeys(r.baseline for r in report.tiers)]
    floor = FAR_BELOW * max((base.accuracy or 0.0 for base in (row.baseline for row in report.tiers)), default=0.0)
    shared = [stage for stage in report.stages if labelled and stage.tier is None]
    points += [_stage(stage, chart) for stage in shared if (stage.accuracy or 0.0) >= floor]
    points += [_tier(row, chart, labelled, n) for n, row in enumerate(report.tiers)]
    return [point for point in points if point is not None]


def _baseline(base: Baseline, chart: Chart, labelled: bool) -> Point | None:
    cost, share = chart.cost(base), base.accuracy if labelled else 1.0
    if cost is None or share is None:
        return None
    tip = f"{base.name}: {percent(share)} at {chart.format(cost)}"
    low, high = (base.accuracy_low, base.accuracy_high) if labelled else (None, None)
    return Point("float", "baseline", cost, share, tip, low, high)


def _stage(stage: StageRow, chart: Chart) -> Point | None:
    cost = chart.cost(stage)
    if cost is None or stage.accuracy is None:
        return None
    tip = f"Stage {stage.index}, {stage.title}: {percent(stage.accuracy)} at {chart.format(cost)}"
    return Point(stage.title, "stage", cost, stage.accuracy, tip, mark=str(stage.index))


def _tier(row: Row, chart: Chart, labelled: bool, color: int) -> Point | None:
    cost, share = chart.cost(row), row.accuracy if labelled else row.agreement
    if cost is None or share is None:
        return None
    tip = f"{row.tier} ({row.precision}): {percent(share)} at {chart.format(cost)}"
    low, high = (row.accuracy_low, row.accuracy_high) if labelled else (None, None)
    return Point(row.tier, "tier", cost, share, tip, low, high, color=color)
