"""What came out: each tier's verdict, the table of artifacts, and accuracy against what it costs."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from edgeopt.report.figures import (
    columns_of,
    count,
    metric_heading,
    milliseconds,
    percent,
    points,
    ratio,
    verdict_of,
)
from edgeopt.report.limits import Verdict
from edgeopt.report.markup import chip, mark, plot, region, section, table, together, warnings
from edgeopt.report.points import CHARTS, draw, left_out
from edgeopt.report.report import Report, Row
from edgeopt.units import format_bytes

__all__ = ["artifacts", "charts", "tiers"]


def tiers(report: Report) -> str:
    """A card for each tier: its verdict, its figures beside the float model's, its limits one by one."""
    cards = [_tier(row, [v for v in report.gate if v.tier == row.tier], n) for n, row in enumerate(report.tiers)]
    return section("tiers", "Tiers", f'<div class="grid">{"".join(cards)}</div>' if cards else "")


def _tier(row: Row, verdicts: Sequence[Verdict], n: int) -> str:
    figures = "".join(
        f"<div><dt>{name}</dt><dd><b>{together(escape(value))}</b> <span>{together(escape(note))}</span></dd></div>"
        for name, value, note in _headlines(row)
    )
    state, words = verdict_of(verdicts)
    limits = "".join(_limit(verdict) for verdict in verdicts)
    return (
        f'<article class="card tier {state.replace(" ", "-")}"><div class="top">'
        f'<h3><span class="dot c{n % 6}" aria-hidden="true"></span>{escape(row.tier)}</h3>{chip(row.precision)}</div>'
        f'<p class="verdict">{mark(state) if verdicts else ""} <span class="soft">{words}</span></p>'
        f'<dl class="big">{figures}</dl>'
        + (f'<ul class="limits" aria-label="Limits">{limits}</ul>' if limits else "")
        + warnings(row.warnings)
        + "</article>"
    )


def _headlines(row: Row) -> list[tuple[str, str, str]]:
    """Name, value and a comparison with the float model, of what was measured."""
    base = row.baseline
    lines = [("Size", format_bytes(row.size_bytes), _smaller(row.size_bytes, base.size_bytes))]
    if row.accuracy is not None:
        drop = row.drop_points
        note = "" if drop is None else f"{points(drop)} drop" if drop >= 0 else f"{points(-drop)} gain"
        lines.append((metric_heading(row.metric), percent(row.accuracy), note))
    elif row.agreement is not None:
        lines.append(("Agreement", percent(row.agreement), "with the float model"))
    if row.latency_ms is not None:
        note = "" if row.speedup is None else f"{ratio(row.speedup)} as fast"
        lines.append(("Latency", milliseconds(row.latency_ms), note))
    if row.flash_bytes is not None:
        ram = "" if row.ram_bytes is None else f"{format_bytes(row.ram_bytes)} RAM"
        lines.append(("Flash, as C", format_bytes(row.flash_bytes), ram))
    if row.instructions is not None:
        wrong = "" if row.mismatches is None else f"{count(row.mismatches)} mismatches"
        lines.append(("Instructions", count(row.instructions), wrong))
    return lines


def _smaller(size: int, base: int | None) -> str:
    if not base or not size:
        return ""
    return f"{base / size:.1f}x smaller" if size <= base else f"{size / base:.1f}x larger"


def _limit(verdict: Verdict) -> str:
    text = together(escape(verdict.sentence))
    return f"<li>{mark(verdict.outcome)}<span><b>{escape(verdict.limit)}</b> {text}</span></li>"


def artifacts(report: Report) -> str:
    """Every figure of every artifact, and of the float models they are compared with."""
    if not report.tiers:
        return ""
    columns = columns_of(report)
    rows = []
    for row in report.tiers:
        cells = "".join(_cell(column.artifact(row), column.detail(row)) for column in columns)
        rows.append(f'<tr><th scope="row">{escape(row.tier)}</th>{cells}</tr>')
    for base in dict.fromkeys(row.baseline for row in report.tiers):
        cells = "".join(_cell(column.baseline(base), "") for column in columns)
        rows.append(f'<tr class="float"><th scope="row">{escape(base.name)}</th>{cells}</tr>')
    heads = [f'<th scope="col">{heading}</th>' for heading in ("Tier", *(column.heading for column in columns))]
    content = region(table(heads, rows, "Figures of every artifact"), "Artifacts, table", "card")
    return section("artifacts", "Artifacts", content)


def _cell(value: str, detail: str) -> str:
    return f"<td>{escape(value)}{f' <small>{escape(detail)}</small>' if detail else ''}</td>"


def charts(report: Report) -> str:
    """Accuracy against size, latency and RAM."""
    drawn = [found for chart in CHARTS if (found := draw(report, chart)) is not None]
    cards = "".join(
        f'<figure class="card"><figcaption><h3>{escape(title)}</h3></figcaption>'
        f"{plot('tradeoff', title, data)}</figure>"
        for title, data in drawn
    )
    if not cards:
        return ""
    return section("charts", "What it costs", f'{_legend(report)}<div class="grid">{cards}</div>')


def _legend(report: Report) -> str:
    colors = "".join(
        f'<li><span class="dot c{n % 6}" aria-hidden="true"></span>{escape(row.tier)}</li>'
        for n, row in enumerate(report.tiers)
    )
    numbers = "".join(
        f'<li><span class="number" aria-hidden="true">{stage.index}</span>{escape(stage.title)}</li>'
        for stage in report.stages
        if stage.tier is None and stage.accuracy is not None and stage not in left_out(report)
    )
    missing = "".join(
        f" Stage {stage.index} ({escape(stage.title)}, {percent(stage.accuracy or 0)}) is too far below to be drawn."
        for stage in left_out(report)
    )
    return (
        '<ul class="legend"><li><span class="diamond" aria-hidden="true"></span>float model</li>'
        f'{numbers}{colors}</ul><p class="soft small">Up and to the left is better; vertical bars are 95 % intervals.'
        f"{missing}</p>"
    )
