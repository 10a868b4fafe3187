"""How figures are written, and which of them the artifact table has. One definition for every view."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from pydantic import JsonValue

from edgeopt.report.limits import Verdict
from edgeopt.report.report import ACCURACY, Baseline, Report, Row, StageRow
from edgeopt.units import format_bytes, format_sizes

__all__ = [
    "COLUMNS",
    "NONE",
    "Column",
    "c_program",
    "columns_of",
    "count",
    "decibels",
    "describe",
    "duration",
    "exact_bytes",
    "histories",
    "metric_heading",
    "milliseconds",
    "number",
    "percent",
    "points",
    "ratio",
    "stage_figures",
    "summary",
    "verdict_of",
]

NONE = "–"
"""What stands for a figure that was not measured."""

LONG_LIST = 8
BY_LAYER = ("layers_sqnr_db",)
"""Facts with an entry for each layer: they are shown with the artifact's layers."""


def percent(share: float) -> str:
    """0.9806 -> `98.06 %`."""
    return f"{100 * share:.2f} %"


def points(drop: float) -> str:
    """0.56 -> `0.56 pt`; a drop that rounds to nothing has no sign."""
    return f"{drop + 0.0:.2f} pt".replace("-0.00", "0.00")


def milliseconds(value: float) -> str:
    """0.0287 -> `0.0287 ms`, 123.4 -> `123 ms`."""
    return f"{value:.3g} ms" if value < 1000 else f"{value:,.0f} ms"


def decibels(value: float) -> str:
    """20.114 -> `20.1 dB`."""
    return f"{value:.1f} dB"


def number(value: float) -> str:
    """A loss, a learning rate: four significant digits."""
    return f"{value:.4g}"


def ratio(value: float) -> str:
    """1.436 -> `1.44x`."""
    return f"{value:.2f}x"


def count(value: float) -> str:
    """295152 -> `295 k`; three significant digits from 10,000 up, exact below."""
    for unit, factor in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= max(factor, 1e4):
            scaled = value / factor
            return f"{scaled:.3g} {unit}" if scaled < 100 else f"{scaled:,.0f} {unit}"
    return f"{value:,.0f}"


def exact_bytes(size: float) -> str:
    """18213 -> `18.2 KB (18,213 B)`."""
    return f"{size:,.0f} B" if size < 1000 else f"{format_bytes(size)} ({size:,.0f} B)"


def duration(seconds: float) -> str:
    """83.6 -> `1 min 24 s`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


@dataclass(frozen=True)
class Column:
    """One figure of the artifact table: of an artifact and of the float model it is compared with."""

    heading: str
    artifact: Callable[[Row], str]
    baseline: Callable[[Baseline], str]
    detail: Callable[[Row], str] = lambda row: ""
    """Its interval, spread or second figure."""


def _or_none(value: float | None, write: Callable[[float], str]) -> str:
    return NONE if value is None else write(value)


def _interval(low: float | None, high: float | None, write: Callable[[float], str]) -> str:
    """`96.06 to 99.06 %`: the unit once."""
    if low is None or high is None:
        return ""
    return f"{write(low).rpartition(' ')[0]} to {write(high)}"


def _nothing(baseline: Baseline) -> str:
    return NONE


COLUMNS = (
    Column("Precision", lambda row: row.precision or NONE, lambda base: "fp32"),
    Column("Size", lambda row: format_bytes(row.size_bytes), lambda base: _or_none(base.size_bytes, format_bytes)),
    Column(
        "Accuracy",
        lambda row: _or_none(row.accuracy, percent),
        lambda base: _or_none(base.accuracy, percent),
        lambda row: _interval(row.accuracy_low, row.accuracy_high, percent),
    ),
    Column("mAP at IoU 0.5", lambda row: _or_none(row.map50, percent), _nothing),
    Column(
        "Drop",
        lambda row: _or_none(row.drop_points, points),
        _nothing,
        lambda row: _interval(row.drop_low, row.drop_high, points),
    ),
    Column(
        "Agreement",
        lambda row: _or_none(row.agreement, percent),
        _nothing,
        lambda row: "" if row.sqnr_db is None else f"SQNR {row.sqnr_db:.1f} dB",
    ),
    Column(
        "Latency",
        lambda row: _or_none(row.latency_ms, milliseconds),
        lambda base: _or_none(base.latency_ms, milliseconds),
        lambda row: _interval(row.latency_low_ms, row.latency_high_ms, milliseconds),
    ),
    Column("Speedup", lambda row: _or_none(row.speedup, ratio), _nothing),
    Column("Params", lambda row: _or_none(row.params, count), lambda base: _or_none(base.params, count)),
    Column(
        "MACs",
        lambda row: _or_none(row.macs, count),
        lambda base: _or_none(base.macs, count),
        lambda row: format_sizes(row.sizes),
    ),
    Column(
        "Peak RAM",
        lambda row: _or_none(row.peak_ram_bytes, format_bytes),
        lambda base: _or_none(base.peak_ram_bytes, format_bytes),
    ),
)


def columns_of(report: Report) -> list[Column]:
    """The columns that some artifact of the report has a figure for."""
    named = [replace(c, heading=metric_heading(report.metric)) if c.heading == "Accuracy" else c for c in COLUMNS]
    return [column for column in named if any(column.artifact(row) != NONE for row in report.tiers)]


def metric_heading(metric: str) -> str:
    """`Accuracy` or `mAP`."""
    return "Accuracy" if metric == ACCURACY else metric


def summary(report: Report) -> tuple[bool | None, str]:
    """Whether the gate lets everything through (None: there are no limits), and what it found in a few words."""
    if not report.gate:
        return None, "No limits were set"
    return all(verdict.ok for verdict in report.gate), verdict_of(report.gate)[1]


def verdict_of(verdicts: Sequence[Verdict]) -> tuple[str, str]:
    """`pass`, `fail` or `cannot tell` over all of them, and that in a few words."""
    found = Counter(verdict.outcome for verdict in verdicts)
    failed, unsure = found["fail"], found["cannot tell"]
    if not verdicts:
        return "none", "No limits were set"
    if not failed and not unsure:
        return "pass", "The one limit holds" if len(verdicts) == 1 else f"All {len(verdicts)} limits hold"
    counts = ((failed, "not met"), (unsure, "cannot be told"))
    words = [f"{n} of {len(verdicts)} limits {what}" for n, what in counts if n]
    return "fail" if failed else "cannot tell", ", ".join(words)


def c_program(row: Row) -> str:
    """What is known of an artifact's C program: `flash 17.8 KB · RAM 2.5 KB · 0 mismatches (cortex-m4: 64 images)`."""
    figures = (
        (row.flash_bytes, "flash {}", format_bytes),
        (row.ram_bytes, "RAM {}", format_bytes),
        (row.instructions, "{} instructions", count),
        (row.mismatches, "{} mismatches", count),
    )
    known = " · ".join(text.format(write(value)) for value, text, write in figures if value is not None)
    return f"{known} ({row.c_basis})" if known and row.c_basis else known


def stage_figures(stage: StageRow) -> str:
    """The model that the stage handed back: `98.33 % · 46.9 KB · 11.4 k params · 0.0364 ms`."""
    figures = (
        (stage.accuracy, percent, ""),
        (stage.size_bytes, format_bytes, ""),
        (stage.params, count, " params"),
        (stage.macs, count, " MACs"),
        (stage.peak_ram_bytes, format_bytes, " peak RAM"),
        (stage.latency_ms, milliseconds, ""),
    )
    return " · ".join(write(value) + name for value, write, name in figures if value is not None)


def describe(value: JsonValue, name: str = "") -> Iterator[tuple[str, str]]:
    """Settings or facts as `criterion.kind`, `taylor` pairs; training histories are left to the curves."""
    if isinstance(value, dict):
        for key, item in value.items():
            if not _is_history(item) and key not in BY_LAYER:
                yield from describe(item, f"{name}.{key}" if name else key)
    elif isinstance(value, list):
        yield name, _list(value)
    elif value is not None:
        yield name, _scalar(value)


def histories(facts: JsonValue, name: str = "") -> Iterator[tuple[str, list[dict[str, float]]]]:
    """Each training history among the facts (a list of dicts with a loss): its place and its rows."""
    if isinstance(facts, dict):
        for key, item in facts.items():
            place = key if key != "history" else ""
            path = ".".join(filter(None, [name, place]))
            if _is_history(item) and isinstance(item, list):
                yield path, [_numbers(row) for row in item]
            else:
                yield from histories(item, path)


def _is_history(value: JsonValue) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(row, dict) and "loss" in row for row in value)


def _numbers(row: JsonValue) -> dict[str, float]:
    items = row.items() if isinstance(row, dict) else ()
    return {key: float(value) for key, value in items if isinstance(value, (int, float))}


def _list(items: list[JsonValue]) -> str:
    if any(isinstance(item, (dict, list)) for item in items):
        return f"{len(items)} entries"
    shown = ", ".join(_scalar(item) for item in items[:LONG_LIST]) or "none"
    return shown if len(items) <= LONG_LIST else f"{shown} and {len(items) - LONG_LIST} more"


def _scalar(value: JsonValue) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
