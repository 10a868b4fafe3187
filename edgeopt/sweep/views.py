"""A sweep in a terminal and as markdown."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from edgeopt.report.figures import NONE, milliseconds, percent, points
from edgeopt.report.markdown import escape_markdown, markdown_table
from edgeopt.sweep.result import Figures, Sweep, VariantRow
from edgeopt.units import format_bytes

__all__ = ["FOOT", "cells", "heads", "interval", "on_fronts", "ranked", "tiers_of", "to_markdown", "to_terminal"]

MOST_LINES = 30
"""Of a tier's table in a terminal."""
STYLES = {"pass": "green", "fail": "bold red", "cannot tell": "bold yellow"}
FOOT = (
    "On the front for size (latency): no other variant is as accurate and smaller (faster), or as small (fast) and "
    "more accurate. Accuracies within one another's 95 % intervals may be a matter of chance."
)


def tiers_of(sweep: Sweep) -> list[str]:
    """Every tier that some variant has, in their order."""
    return list(dict.fromkeys(tier for row in sweep.variants for tier in row.tiers))


def ranked(sweep: Sweep, tier: str) -> list[tuple[VariantRow, Figures]]:
    """The variants that have the tier, the best answers first, the smaller file of two that are as good."""
    own = [(row, row.tiers[tier]) for row in sweep.variants if tier in row.tiers]
    return sorted(own, key=lambda entry: (-(entry[1].quality or 0.0), entry[1].size_bytes))


def on_fronts(sweep: Sweep, tier: str, name: str) -> str:
    """`size, latency`: the fronts that the variant is on."""
    return ", ".join(cost for cost, names in sweep.fronts.get(tier, {}).items() if name in names)


def heads(rows: Sequence[tuple[VariantRow, Figures]]) -> list[str]:
    """Of the columns of `cells`."""
    metric = next((figures.metric for _, figures in rows if figures.accuracy is not None), "agreement")
    return [metric, "drop", "size", "latency"]


def cells(figures: Figures) -> list[str]:
    """A variant's figures."""
    return [
        NONE if figures.quality is None else percent(figures.quality),
        NONE if figures.drop_points is None else points(figures.drop_points),
        format_bytes(figures.size_bytes),
        NONE if figures.latency_ms is None else milliseconds(figures.latency_ms),
    ]


def interval(figures: Figures) -> str:
    """Of the accuracy: `96.06 to 99.06 %`."""
    if figures.accuracy_low is None or figures.accuracy_high is None:
        return ""
    return f"{100 * figures.accuracy_low:.2f} to {percent(figures.accuracy_high)}"


def to_terminal(sweep: Sweep) -> list[RenderableType]:
    """A table for each tier, then what failed; to be printed one after another."""
    parts: list[RenderableType] = []
    for tier in tiers_of(sweep):
        rows = ranked(sweep, tier)
        shown = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="dim", title_justify="left")
        shown.add_column(tier, overflow="fold")
        for heading in heads(rows):
            shown.add_column(heading, justify="right", no_wrap=True)
        shown.add_column("front")
        for row, figures in rows[:MOST_LINES]:
            best = on_fronts(sweep, tier, row.name)
            told = Text(best, "green")
            if figures.gate != "none":
                told.append(f"{'  ' if best else ''}{figures.gate}", STYLES[figures.gate])
            shown.add_row(Text(row.name, "bold" if best else ""), *cells(figures), told)
        parts += [shown, ""]
        if len(rows) > MOST_LINES:
            parts.insert(-1, Text(f"and {len(rows) - MOST_LINES} more: sweep.md has all", "dim"))
    failed = [row for row in sweep.variants if row.state == "failed"]
    return parts + [Text.assemble(("failed ", "bold red"), f"{row.name}: {row.error}") for row in failed]


def to_markdown(sweep: Sweep) -> str:
    """GitHub-flavoured; text from recipes is escaped."""
    states = [row.state for row in sweep.variants]
    counts = [f"{states.count(state)} {state}" for state in dict.fromkeys(states)]
    parts = [f"# Sweep of {escape_markdown(sweep.name)}", f"{', '.join(counts)}. {FOOT}"]
    keys = [
        f"- {escape_markdown(key)}: {escape_markdown(', '.join(map(str, own)))}" for key, own in sweep.varied.items()
    ]
    parts += ["\n".join(keys)] if keys else []
    for tier in tiers_of(sweep):
        rows = ranked(sweep, tier)
        lines = []
        for row, figures in rows:
            accuracy, *rest = cells(figures)
            within = f"<br><sub>{interval(figures)}</sub>" if interval(figures) else ""
            name = f"[{escape_markdown(row.name)}](<{row.name}/report.md>)"
            lines.append([name, accuracy + within, *rest, figures.gate, on_fronts(sweep, tier, row.name)])
        parts += [f"## {escape_markdown(tier)}", markdown_table(["variant", *heads(rows), "gate", "front"], lines)]
    failed = [row for row in sweep.variants if row.state == "failed"]
    told = "\n".join(f"- {escape_markdown(row.name)}: {escape_markdown(row.error)}" for row in failed)
    parts += ["## Failed", told] if failed else []
    return "\n\n".join([*parts, escape_markdown(sweep.timing)]) + "\n"
