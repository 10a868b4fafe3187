"""A sweep as one offline page: accuracy against size and latency for each tier, and every variant as a table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from urllib.parse import quote

from edgeopt.report.figures import milliseconds, percent
from edgeopt.report.history_views import axis
from edgeopt.report.simple_page import simple_page, table
from edgeopt.sweep.result import COSTS, Cost, Figures, Sweep, VariantRow
from edgeopt.sweep.views import FOOT, cells, heads, interval, on_fronts, ranked, tiers_of
from edgeopt.units import format_bytes

__all__ = ["to_html"]

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 640, 300, 74, 24, 14, 44
WRITE: dict[str, Callable[[float], str]] = {"size": format_bytes, "latency": milliseconds}
MARKS = {"pass": "pass", "fail": "fail"}
STYLE = """
.front { display: block; width: 100%; height: auto; color: var(--c0, #2158b0); }
.front .grid { stroke: var(--rule, #dfe3ea); }
.front text { fill: var(--soft, #5a6678); font-size: 12px; }
.front polyline { fill: none; stroke: currentColor; stroke-width: 2; }
.front circle { fill: var(--soft, #5a6678); opacity: .55; }
.front circle.best { fill: currentColor; opacity: 1; }
"""

Ranked = Sequence[tuple[VariantRow, Figures]]


def to_html(sweep: Sweep) -> str:
    """The page; text from recipes is escaped."""
    sections = []
    for tier in tiers_of(sweep):
        rows = ranked(sweep, tier)
        charts = "".join(_chart(sweep, tier, cost, rows) for cost in COSTS)
        sections.append((tier, charts + _table(sweep, tier, rows)))
    failed = [row for row in sweep.variants if row.state == "failed"]
    if failed:
        told = "".join(f"<li><b>{escape(row.name)}</b>: {escape(row.error)}</li>" for row in failed)
        sections.append(("Failed", f"<ul>{told}</ul>"))
    notes = "".join(f'<p class="soft small">{escape(note)}</p>' for note in (FOOT, sweep.timing))
    facts = (
        f"{sum(row.state == 'finished' for row in sweep.variants)} of {len(sweep.variants)} variants, {sweep.created}"
    )
    return simple_page(f"Sweep of {sweep.name}", facts, [*sections, ("Notes", notes)], style=STYLE)


def _table(sweep: Sweep, tier: str, rows: Ranked) -> str:
    lines = []
    for row, figures in rows:
        accuracy, *rest = map(escape, cells(figures))
        within = f"<small>{escape(interval(figures))}</small>" if interval(figures) else ""
        name = f'<a href="{quote(row.name)}/report.html">{escape(row.name)}</a>'
        gate = f'<span class="mark {MARKS.get(figures.gate, "none")}">{figures.gate}</span>'
        lines.append([name, accuracy + within, *rest, gate, escape(on_fronts(sweep, tier, row.name))])
    return table(["Variant", *heads(rows), "gate", "front"], lines, tier)


def _chart(sweep: Sweep, tier: str, cost: Cost, rows: Ranked) -> str:
    """Every variant as a point, the front as steps; nothing where one of the figures was not measured."""
    spots = {
        row.name: (price, quality)
        for row, figures in rows
        if (price := cost.of(figures)) is not None and (quality := figures.quality) is not None
    }
    if not spots:
        return ""
    prices, qualities = ([spot[number] for spot in spots.values()] for number in (0, 1))
    x_low, x_high, x_ticks = axis(min(prices), max(prices))
    y_low, y_high, y_ticks = axis(min(qualities), max(qualities))

    def place(price: float, quality: float) -> tuple[float, float]:
        across = LEFT + (price - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT)
        return across, HEIGHT - BOTTOM - (quality - y_low) / (y_high - y_low) * (HEIGHT - TOP - BOTTOM)

    write, best = WRITE[cost.name], sweep.fronts.get(tier, {}).get(cost.name, ())
    parts = [_line(place(x_low, tick)[1], percent(tick)) for tick in y_ticks]
    parts += [_foot(place(tick, y_low)[0], write(tick)) for tick in x_ticks]
    parts.append(_steps([place(*spots[name]) for name in best]))
    for name, (price, quality) in spots.items():
        x, y = place(price, quality)
        told = escape(f"{name}: {percent(quality)} at {write(price)}")
        mark = ' class="best"' if name in best else ""
        parts.append(f'<circle{mark} cx="{x:.1f}" cy="{y:.1f}" r="5"><title>{told}</title></circle>')
    label = escape(f"{heads(rows)[0]} against {cost.name}, {tier}")
    svg = f'<svg class="front" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">{"".join(parts)}</svg>'
    return f'<figure class="card"><figcaption class="small">{label}</figcaption>{svg}</figure>'


def _line(top: float, text: str) -> str:
    return (
        f'<path class="grid" d="M{LEFT} {top:.1f}H{WIDTH - RIGHT}"/>'
        f'<text x="{LEFT - 8}" y="{top + 4:.1f}" text-anchor="end">{escape(text)}</text>'
    )


def _foot(across: float, text: str) -> str:
    return f'<text x="{across:.1f}" y="{HEIGHT - BOTTOM + 20}" text-anchor="middle">{escape(text)}</text>'


def _steps(spots: Sequence[tuple[float, float]]) -> str:
    """What can be had at a cost: the accuracy of the last point that is as cheap."""
    path: list[tuple[float, float]] = []
    for x, y in spots:
        path += [(x, path[-1][1])] if path else []
        path.append((x, y))
    return f'<polyline points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in path)}"/>'
