"""The report in a terminal of 80 columns, as rich renderables."""

from __future__ import annotations

from collections.abc import Callable

from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from edgeopt.report.figures import (
    NONE,
    duration,
    metric_heading,
    milliseconds,
    percent,
    points,
    ratio,
    stage_figures,
    summary,
)
from edgeopt.report.report import Baseline, Report, Row, StageRow
from edgeopt.units import format_bytes

__all__ = ["render_artifacts", "render_stages", "render_verdicts", "to_terminal"]

STYLES = {True: "green", False: "bold red", None: "dim"}
OUTCOMES = {"pass": ("pass", "green"), "fail": ("FAIL", "bold red"), "cannot tell": ("cannot tell", "bold yellow")}


def to_terminal(report: Report) -> list[RenderableType]:
    """Title and verdict, artifacts, limits, stages, warnings: to be printed one after another."""
    ok, words = summary(report)
    parts: list[RenderableType] = [Text.assemble((report.name, "bold"), "  ", (words, STYLES[ok]))]
    parts += ["", render_artifacts(report), *_circumstances(report)] if report.tiers else []
    parts += ["", render_verdicts(report)] if report.gate else []
    parts += ["", render_stages(report)] if report.stages else []
    notes = [*report.warnings, *(f"{row.tier}: {text}" for row in report.tiers for text in row.warnings)]
    parts += [Text(f"warning: {note}", "yellow") for note in notes]
    return parts


def render_artifacts(report: Report) -> Table:
    """One line a tier, and the float model they are compared with."""
    table = _table("Tier")
    labelled = any(row.accuracy is not None for row in report.tiers)
    told = (metric_heading(report.metric), "Drop") if labelled else ("Agreement", "SQNR")
    for heading in ("Size", *told, "Latency", "Speedup", "RAM"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in report.tiers:
        table.add_row(Text(row.tier, "bold"), *_cells(row, _against_labels(row) if labelled else _against_float(row)))
    for base in dict.fromkeys(row.baseline for row in report.tiers):
        table.add_row(Text(base.name), *_baseline_cells(base), style="dim")
    return table


def _circumstances(report: Report) -> list[RenderableType]:
    """Where the latencies were measured: they are this machine's, not a microcontroller's."""
    known = dict.fromkeys(row.environment for row in report.tiers if row.latency_ms is not None)
    return [
        Text(f"Latency of one input on {env.threads} thread(s), {env.provider}, {env.cpu}", "dim")
        for env in known
        if env.provider
    ]


def render_verdicts(report: Report) -> Table:
    """One line a limit."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for verdict in report.gate:
        cells = (verdict.tier, verdict.limit, verdict.sentence)
        table.add_row(Text(*OUTCOMES[verdict.outcome]), *map(Text, cells))
    return table


def render_stages(report: Report) -> Table:
    """One line a stage: what it was, how long it took, the model it handed back."""
    table = _table("Stage")
    table.add_column("Took", justify="right", no_wrap=True)
    table.add_column("Result")
    for stage in report.stages:
        table.add_row(Text(_title(stage)), _took(stage), Text(stage_figures(stage)))
    return table


def _table(first: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="dim")
    table.add_column(first, overflow="fold", min_width=6, max_width=34)
    return table


def _title(stage: StageRow) -> str:
    return f"{stage.index} {stage.title}{f' ({stage.tier})' if stage.tier else ''}"


def _took(stage: StageRow) -> str:
    return "reused" if stage.reused else duration(stage.seconds)


def _or_none(value: float | None, write: Callable[[float], str]) -> str:
    return NONE if value is None else write(value)


def _against_labels(row: Row) -> list[str]:
    return [_or_none(row.accuracy, percent), _or_none(row.drop_points, points)]


def _against_float(row: Row) -> list[str]:
    """Where there are no labels: how far it answers as the float model does."""
    return [_or_none(row.agreement, percent), _or_none(row.sqnr_db, lambda value: f"{value:.1f} dB")]


def _cells(row: Row, told: list[str]) -> list[str]:
    return [
        format_bytes(row.size_bytes),
        *told,
        _or_none(row.latency_ms, milliseconds),
        _or_none(row.speedup, ratio),
        _or_none(row.peak_ram_bytes, format_bytes),
    ]


def _baseline_cells(base: Baseline) -> list[str]:
    return [
        _or_none(base.size_bytes, format_bytes),
        _or_none(base.accuracy, percent),
        NONE,
        _or_none(base.latency_ms, milliseconds),
        NONE,
        _or_none(base.peak_ram_bytes, format_bytes),
    ]
