"""Charts as inline SVG: no library, no script, and the same file on paper.

Every point carries its figures as text (`<title>` and `data-tip`), can be reached with the keyboard, and
tells a screen reader what it is; colours and fonts are the page's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

from edgeopt.report.scale import Axis, linear_axis

__all__ = ["Point", "line", "scatter"]

WIDTH, HEIGHT = 400, 290
LEFT, RIGHT, TOP, BOTTOM = 62, 18, 16, 46
CHARACTER, LINE = 8.6, 15
"""About what a character of a label measures."""
HUGE = 1e100
"""A diverged loss beyond this is drawn as this."""

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Point:
    """One model on a chart."""

    name: str
    kind: Literal["baseline", "stage", "tier"]
    x: float
    y: float
    tip: str
    """What hovering or focusing it says."""
    low: float | None = None
    """Interval of y, drawn as a whisker."""
    high: float | None = None
    mark: str = ""
    """A stage's number, written in its circle."""
    color: int = 0
    """Of a tier, counted from 0."""


def scatter(points: Sequence[Point], x: Axis, y: Axis, title: str) -> str:
    """An SVG of `points`; tiers and the baseline are named, stages are numbered and joined in order."""
    spots = [(_left(point.x, x), _top(point.y, y)) for point in points]
    order = sorted(range(len(points)), key=lambda n: ("baseline", "stage", "tier").index(points[n].kind))
    return "".join(
        [
            f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="group" aria-label="{escape(title)}">',
            _axes(x, y),
            _journey([spot for point, spot in zip(points, spots, strict=True) if point.kind == "stage"]),
            *(_whisker(points[n], spots[n], y) for n in order),
            *(_point(points[n], spots[n]) for n in order),
            *_labels(points, spots),
            "</svg>",
        ]
    )


def line(values: Sequence[float], title: str, last: str) -> str:
    """A small SVG line over the index of `values`; its end is marked, `title` is what it says aloud."""
    width, height, pad = 220, 64, 6
    values = [max(-HUGE, min(HUGE, value)) for value in values]
    spoken = escape(f"{title}: {last}")
    axis = linear_axis("", values, str)
    step = (width - 2 * pad) / max(1, len(values) - 1)
    spots = [(pad + n * step, height - pad - axis.place(v) * (height - 2 * pad)) for n, v in enumerate(values)]
    path = " ".join(f"{left:.1f},{top:.1f}" for left, top in spots)
    left, top = spots[-1]
    return (
        f'<svg class="line" viewBox="0 0 {width} {height}" role="img" aria-label="{spoken}">'
        f"<title>{spoken}</title>"
        f'<path class="axis" d="M{pad} {height - 1}H{width - pad}"/><polyline points="{path}"/>'
        f'<circle cx="{left:.1f}" cy="{top:.1f}" r="3"/></svg>'
    )


def _left(value: float, axis: Axis) -> float:
    return LEFT + axis.place(value) * (WIDTH - LEFT - RIGHT)


def _top(value: float, axis: Axis) -> float:
    return HEIGHT - BOTTOM - axis.place(value) * (HEIGHT - TOP - BOTTOM)


def _axes(x: Axis, y: Axis) -> str:
    parts = []
    for tick in y.ticks:
        top = _top(tick, y)
        parts.append(f'<path class="grid" d="M{LEFT} {top:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 8}" y="{top + 4:.1f}" text-anchor="end">')
        parts.append(f"{escape(y.format(tick))}</text>")
    for tick in x.ticks:
        left = _left(tick, x)
        parts.append(f'<path class="grid" d="M{left:.1f} {TOP}V{HEIGHT - BOTTOM}"/>')
        parts.append(f'<text class="tick" x="{left:.1f}" y="{HEIGHT - BOTTOM + 17}" text-anchor="middle">')
        parts.append(f"{escape(x.format(tick))}</text>")
    scale = ", logarithmic" if x.logarithmic else ""
    parts.append(f'<path class="axis" d="M{LEFT} {TOP}V{HEIGHT - BOTTOM}H{WIDTH - RIGHT}"/>')
    parts.append(f'<text class="title" x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 6}" text-anchor="middle">')
    parts.append(f"{escape(x.label + scale)}</text>")
    return "".join(parts)


def _journey(spots: Sequence[tuple[float, float]]) -> str:
    if len(spots) < 2:
        return ""
    path = " ".join(f"{left:.1f},{top:.1f}" for left, top in spots)
    return f'<polyline class="journey" points="{path}"/>'


def _whisker(point: Point, spot: tuple[float, float], y: Axis) -> str:
    if point.low is None or point.high is None:
        return ""
    low, high = _top(max(point.low, y.low), y), _top(min(point.high, y.high), y)
    left = spot[0]
    return (
        f'<path class="whisker {_class(point)}" d="M{left:.1f} {low:.1f}V{high:.1f}'
        f'M{left - 4:.1f} {low:.1f}h8M{left - 4:.1f} {high:.1f}h8"/>'
    )


def _class(point: Point) -> str:
    return f"tier c{point.color % 6}" if point.kind == "tier" else point.kind


def _point(point: Point, spot: tuple[float, float]) -> str:
    left, top = spot
    if point.kind == "baseline":
        shape = f'<path d="M{left:.1f} {top - 13:.1f}l13 13l-13 13l-13-13z"/>'
    elif point.kind == "stage":
        shape = (
            f'<circle cx="{left:.1f}" cy="{top:.1f}" r="7.5"/>'
            f'<text x="{left:.1f}" y="{top + 3.6:.1f}" text-anchor="middle">{escape(point.mark)}</text>'
        )
    else:
        shape = f'<circle cx="{left:.1f}" cy="{top:.1f}" r="6"/>'
    tip = escape(point.tip)
    return (
        f'<g class="point {_class(point)}" tabindex="0" role="img" aria-label="{tip}" data-tip="{tip}">'
        f"<title>{tip}</title>{shape}</g>"
    )


def _labels(points: Sequence[Point], spots: Sequence[tuple[float, float]]) -> list[str]:
    """The names of tiers and baseline, each on the side where it covers least of what is drawn already."""
    taken: list[Box] = [(left - 9, top - 9, left + 9, top + 9) for left, top in spots]
    parts = []
    for point, (left, top) in zip(points, spots, strict=True):
        if point.kind == "stage":
            continue
        width = CHARACTER * len(point.name)
        reach = 18 if point.kind == "baseline" else 11
        right, left_end = left + reach, left - reach
        above, beside, below = top - reach - LINE, top - LINE / 2, top + reach
        boxes = [
            (right, beside, right + width, beside + LINE),
            (left_end - width, beside, left_end, beside + LINE),
        ]
        for edge in (above, below):
            boxes.append((left + 8, edge, left + 8 + width, edge + LINE))
            boxes.append((left - 8 - width, edge, left - 8, edge + LINE))
        best = min(boxes, key=lambda box: sum(_overlap(box, other) for other in taken) + _outside(box))
        taken.append(best)
        anchor, at = ("start", best[0]) if best[0] > left else ("end", best[2])
        parts.append(
            f'<text class="name {_class(point)}" x="{at:.1f}" y="{best[1] + 11:.1f}" text-anchor="{anchor}" '
            f'aria-hidden="true">{escape(point.name)}</text>'
        )
    return parts


def _overlap(a: Box, b: Box) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def _outside(box: Box) -> float:
    """Area that would be cut off at the chart's rim, weighed so that any other place is better."""
    inside: Box = (LEFT, TOP - 10, WIDTH - 4, HEIGHT - BOTTOM)
    area = (box[2] - box[0]) * (box[3] - box[1])
    return 10 * (area - _overlap(box, inside))
