"""A comparison in a terminal, as markdown and as a page."""

from __future__ import annotations

from html import escape

from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from edgeopt.report.compare import Comparison, Difference, Pair
from edgeopt.report.markdown import escape_markdown, markdown_table
from edgeopt.report.simple_page import simple_page, table

__all__ = ["compare_data", "compare_html", "compare_markdown", "compare_terminal"]

STYLES = {"better": "green", "worse": "bold red", "same": "dim", "cannot tell": "yellow"}
MARKS = {"better": "pass", "worse": "fail"}
FOOT = (
    "Accuracies: 95 % intervals, on the same images where both reports say which were right. Timings: what the spreads "
    "of both leave open. What is counted has no interval."
)


def compare_data(comparison: Comparison) -> dict[str, object]:
    """The comparison as JSON types; an interval that is open has null for an end."""
    return {
        "first": comparison.first,
        "second": comparison.second,
        "notes": list(comparison.notes),
        "tiers": [
            {"tier": pair.name, "note": pair.note, "figures": [_data(own) for own in pair.differences]}
            for pair in comparison.pairs
        ],
    }


def _data(own: Difference) -> dict[str, object]:
    ends = {"low": own.low, "high": own.high}
    return {
        "figure": own.quantity.limit,
        "before": own.before,
        "after": own.after,
        "change": own.change,
        **{name: None if abs(end) == float("inf") else end for name, end in ends.items()},
        "basis": own.basis,
        "outcome": own.outcome,
    }


def compare_terminal(comparison: Comparison) -> list[RenderableType]:
    """One table a tier, within 80 columns; to be printed one after another."""
    parts: list[RenderableType] = []
    for pair in comparison.pairs:
        title = Text.assemble((pair.name, "bold"), f"  {pair.note}" if pair.note else "")
        parts += [title, _rich_table(pair), ""]
    paths = (("before", comparison.first), ("after ", comparison.second))
    parts += [Text(f"{word} {path}", "dim", no_wrap=True, overflow="ignore") for word, path in paths]
    return parts + [Text(note, "yellow") for note in comparison.notes]


def _rich_table(pair: Pair) -> Table:
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="dim")
    shown.add_column("")
    for heading in ("before", "after", "change"):
        shown.add_column(heading, justify="right", no_wrap=True)
    shown.add_column("")
    for own in pair.differences:
        told = Text(own.outcome, STYLES[own.outcome])
        if own.interval:
            told.append(f"\n{own.interval}", "dim")
        shown.add_row(own.quantity.limit, *own.figures, own.words, told)
    return shown


def compare_markdown(comparison: Comparison) -> str:
    """GitHub-flavoured; text from models is escaped."""
    names = (escape_markdown(comparison.first), escape_markdown(comparison.second))
    parts = [f"### edgeopt compare: {names[0]} → {names[1]}"]
    for pair in comparison.pairs:
        rows = [
            [own.quantity.limit, *own.figures, _with_interval(own), f"**{own.outcome}**"] for own in pair.differences
        ]
        note = f" ({escape_markdown(pair.note)})" if pair.note else ""
        heading = f"#### {escape_markdown(pair.name)}{note}"
        parts += [heading, markdown_table(["", "before", "after", "change", ""], rows)]
    return "\n\n".join([*parts, *(f"_{escape_markdown(note)}_" for note in comparison.notes)]) + "\n"


def _with_interval(own: Difference) -> str:
    return own.words + (f"<br><sub>{own.interval}</sub>" if own.interval else "")


def compare_html(comparison: Comparison) -> str:
    """One offline page."""
    sections = [
        (f"{pair.name} ({pair.note})" if pair.note else pair.name, _html_table(pair)) for pair in comparison.pairs
    ]
    notes = "".join(f"<li>{escape(note)}</li>" for note in comparison.notes)
    foot = f'<p class="soft small">{escape(FOOT)}</p>' + (f"<ul>{notes}</ul>" if notes else "")
    title = f"{comparison.first} → {comparison.second}"
    return simple_page(title, "edgeopt compare: before → after", [*sections, ("Notes", foot)])


def _html_table(pair: Pair) -> str:
    rows = []
    for own in pair.differences:
        small = f"<small>{escape(own.interval)}</small>" if own.interval else ""
        mark = f'<span class="mark {MARKS.get(own.outcome, "none")}">{own.outcome}</span>'
        cells = [own.quantity.limit, *map(escape, own.figures), f"{escape(own.words)}{small}", mark]
        rows.append(cells)
    return table(["Figure", "before", "after", "change", "verdict"], rows, pair.name)
