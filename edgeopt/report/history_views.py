"""The history in a terminal, and as a page with drawings over commits."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape

from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from edgeopt.report.figures import NONE, metric_heading, milliseconds, percent
from edgeopt.report.history import Entry, TierFigures, tiers_of
from edgeopt.report.report import ACCURACY
from edgeopt.report.simple_page import simple_page, table
from edgeopt.units import format_bytes

__all__ = ["axis", "history_html", "history_terminal"]

Metric = tuple[str, Callable[[TierFigures], float | None], Callable[[float], str]]
METRICS: tuple[Metric, ...] = (
    ("Size", lambda own: own.size_bytes, format_bytes),
    ("Accuracy", lambda own: own.accuracy, percent),
    ("Latency", lambda own: own.latency_ms, milliseconds),
    ("Flash", lambda own: own.flash_bytes, format_bytes),
    ("RAM", lambda own: own.ram_bytes, format_bytes),
)
MOST_LINES = 20
"""Of the terminal's table: the newest."""
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 640, 220, 74, 14, 12, 30
COLORS = 6
STYLE = """
.history { display: block; width: 100%; height: auto; }
.history .grid { stroke: var(--rule, #dfe3ea); }
.history text { fill: var(--soft, #5a6678); font-size: 12px; }
.history polyline { fill: none; stroke: currentColor; stroke-width: 2; stroke-linejoin: round; }
.history circle { fill: currentColor; stroke: var(--card, #fff); stroke-width: 1.5; }
.history circle.failed { fill: var(--card, #fff); stroke: currentColor; stroke-width: 2; }
.key { display: inline-block; margin-right: 16px; font-weight: 600; }
"""


def history_terminal(entries: Sequence[Entry]) -> list[RenderableType]:
    """A table of the newest lines, and for each tier what changed since the first."""
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="dim")
    for heading in ("commit", "when", "", "tier"):
        shown.add_column(heading, no_wrap=True)
    for heading in ("size", _metric_of(entries), "latency"):
        shown.add_column(heading, justify="right", no_wrap=True)
    for entry in entries[-MOST_LINES:]:
        word = Text("pass", "green") if entry.ok else Text("FAIL", "bold red")
        for n, (tier, own) in enumerate(entry.tiers.items()):
            first = (_commit(entry), _when(entry), word) if n == 0 else ("", "", "")
            shown.add_row(*first, Text(tier), *(_written(metric, own) for metric in METRICS[:3]))
    left_out = len(entries) - MOST_LINES
    note = [Text(f"the newest {MOST_LINES} of {len(entries)}; a page shows all: --format html", "dim")]
    return [shown, *(note if left_out > 0 else [])]


def history_html(entries: Sequence[Entry]) -> str:
    """One offline page: size, accuracy and whatever else is known over commits, and every line as a table."""
    tiers = tiers_of(entries)
    drawn = [(metric[0], svg) for metric in _named(entries) if (svg := _draw(metric, entries, tiers))]
    keys = "".join(f'<span class="key c{n % COLORS}">● {escape(tier)}</span>' for n, tier in enumerate(tiers))
    note = '<p class="soft small">Oldest left. A hollow point: the gate failed.</p>'
    sections = [
        (name, f'<figure class="card">{f"<p>{keys}</p>" if n == 0 else ""}{svg}</figure>{note if n == 0 else ""}')
        for n, (name, svg) in enumerate(drawn)
    ]
    names = " · ".join(dict.fromkeys(entry.name for entry in entries))
    facts = f"{len(entries)} commits, {_when(entries[0])} to {_when(entries[-1])}"
    return simple_page(f"History of {names}", facts, [*sections, ("Every line", _rows(entries))], style=STYLE)


def _metric_of(entries: Sequence[Entry]) -> str:
    """What the newest accuracy is of."""
    return next((own.metric for own in reversed(list(entries[-1].tiers.values()))), ACCURACY)


def _named(entries: Sequence[Entry]) -> list[Metric]:
    """The figures, the accuracy by the name of its metric."""
    heading = metric_heading(_metric_of(entries))
    return [(heading if name == "Accuracy" else name, read, write) for name, read, write in METRICS]


def _rows(entries: Sequence[Entry]) -> str:
    rows = [
        [
            f"<code>{escape(_commit(entry))}</code>",
            escape(_when(entry)),
            f'<span class="mark {"pass" if entry.ok else "fail"}">{"pass" if entry.ok else "fail"}</span>',
            escape(tier),
            *(escape(_written(metric, own)) for metric in METRICS),
        ]
        for entry in reversed(entries)
        for tier, own in entry.tiers.items()
    ]
    return table(["Commit", "When", "Gate", "Tier", *(metric[0] for metric in _named(entries))], rows, "Every line")


def _commit(entry: Entry) -> str:
    return entry.commit[:9] or NONE


def _when(entry: Entry) -> str:
    return entry.time.replace("T", " ")[:16]


def _written(metric: Metric, own: TierFigures) -> str:
    value = metric[1](own)
    return NONE if value is None else metric[2](value)


def _draw(metric: Metric, entries: Sequence[Entry], tiers: Sequence[str]) -> str:
    """An SVG with a line for each tier; empty where nothing was measured."""
    name, read, write = metric
    known = [value for entry in entries for own in entry.tiers.values() if (value := read(own)) is not None]
    if not known:
        return ""
    low, high, ticks = axis(min(known), max(known))
    step = (WIDTH - LEFT - RIGHT) / max(1, len(entries) - 1)

    def place(index: int, value: float) -> tuple[float, float]:
        across = LEFT + index * step if len(entries) > 1 else (LEFT + WIDTH - RIGHT) / 2
        return across, HEIGHT - BOTTOM - (value - low) / (high - low) * (HEIGHT - TOP - BOTTOM)

    parts = [_grid(place(0, tick)[1], write(tick)) for tick in ticks]
    for end, anchor, at in ((entries[0], "start", LEFT), (entries[-1], "end", WIDTH - RIGHT)):
        if anchor == "start" or len(entries) > 1:
            parts.append(f'<text x="{at}" y="{HEIGHT - 8}" text-anchor="{anchor}">{escape(_commit(end))}</text>')
    for n, tier in enumerate(tiers):
        spots = [
            (*place(index, value), entry, value)
            for index, entry in enumerate(entries)
            if tier in entry.tiers and (value := read(entry.tiers[tier])) is not None
        ]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y, _, _ in spots)
        points = "".join(_point(x, y, entry, f"{tier} {write(value)}") for x, y, entry, value in spots)
        parts.append(f'<g class="c{n % COLORS}"><polyline points="{path}"/>{points}</g>')
    label = escape(f"{name} over {len(entries)} commits")
    return f'<svg class="history" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">{"".join(parts)}</svg>'


def _grid(top: float, text: str) -> str:
    return (
        f'<path class="grid" d="M{LEFT} {top:.1f}H{WIDTH - RIGHT}"/>'
        f'<text x="{LEFT - 8}" y="{top + 4:.1f}" text-anchor="end">{escape(text)}</text>'
    )


def _point(x: float, y: float, entry: Entry, words: str) -> str:
    state = "" if entry.ok else ' class="failed"'
    told = escape(f"{_commit(entry)} {_when(entry)}: {words}" + ("" if entry.ok else ", gate failed"))
    return f'<circle{state} cx="{x:.1f}" cy="{y:.1f}" r="4.5"><title>{told}</title></circle>'


def axis(low: float, high: float) -> tuple[float, float, list[float]]:
    """Ends of an axis with some room, and its ticks at round numbers."""
    room = 0.15 * (high - low) or 0.05 * abs(high) or 1.0
    low, high = max(0.0, low - room), high + room
    power = 10.0 ** math.floor(math.log10((high - low) / 5))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= (high - low) / 5 * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return low, high, [n * step for n in range(first, last + 1)]
