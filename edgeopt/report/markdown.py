"""report.md: for a pull request, a wiki or a terminal pager."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from pydantic import JsonValue

from edgeopt.report.figures import c_program, columns_of, describe, duration, stage_figures, summary
from edgeopt.report.report import Report, Row, StageRow

__all__ = ["to_markdown"]


def to_markdown(report: Report) -> str:
    """The report as GitHub-flavoured markdown; text from recipes and models is escaped."""
    sections = [
        _head(report),
        _artifacts(report),
        _verdicts(report),
        _c_programs(report),
        _stages(report.stages),
        _reproduce(report),
    ]
    return "\n\n".join(filter(None, sections)) + "\n"


def _text(value: str) -> str:
    """One line on which nothing is markup."""
    return re.sub(r"([\\`*_{}\[\]<>#|~!])", r"\\\1", " ".join(value.split()))


def _code(value: str) -> str:
    """One line in backticks, more of them than the text has in a row."""
    line = " ".join(value.split())
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", line)), default=0))
    return f"{fence} {line} {fence}" if "`" in line else f"`{line}`"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _head(report: Report) -> str:
    facts = [f"{_text(report.data.name)}, {report.data.test:,} test images"] if report.data else []
    facts += [_text(report.created.replace("T", " ")[:16]), f"took {duration(report.seconds)}"]
    lines = [f"# {_text(report.name)}", " · ".join(filter(None, facts)), f"**{summary(report)[1]}**"]
    notes = [*report.warnings, *(f"{row.tier}: {text}" for row in report.tiers for text in row.warnings)]
    lines += ["\n".join(f"- Warning: {_text(note)}" for note in notes)] if notes else []
    return "\n\n".join(lines)


def _artifacts(report: Report) -> str:
    if not report.tiers:
        return ""
    columns = columns_of(report)
    rows = [[f"**{_text(row.tier)}**", *_cells(row, report)] for row in report.tiers]
    for base in dict.fromkeys(row.baseline for row in report.tiers):
        rows.append([_text(base.name), *(column.baseline(base) for column in columns)])
    return "## Artifacts\n\n" + _table(["Tier", *(column.heading for column in columns)], rows)


def _cells(row: Row, report: Report) -> list[str]:
    cells = []
    for column in columns_of(report):
        detail = column.detail(row)
        cells.append(_text(column.artifact(row)) + (f"<br><sub>{detail}</sub>" if detail else ""))
    return cells


def _verdicts(report: Report) -> str:
    if not report.gate:
        return ""
    rows = [
        ["pass" if verdict.ok else "**FAIL**", *map(_text, (verdict.tier, verdict.limit, verdict.sentence))]
        for verdict in report.gate
    ]
    lines = ["", "Tier", "Limit", "Found"]
    return "## Gate\n\n" + _table(lines, rows).replace("---:", "---")


def _c_programs(report: Report) -> str:
    """The C program's figures, and what each layer needs of its arena, as bars."""
    parts = []
    for row in report.tiers:
        figures = c_program(row)
        parts += [f"**{_text(row.tier)}**: {_text(figures)}"] if figures else []
        if row.memory_timeline:
            most = max(moment.bytes for moment in row.memory_timeline)
            lines = [[_text(own.layer), f"{own.bytes:,}", _bar(own.bytes, most)] for own in row.memory_timeline]
            parts.append(_table(["Layer", "Bytes in use", ""], lines))
    return "\n\n".join(["## The C program", *parts]) if parts else ""


def _bar(size: int, most: int) -> str:
    """Twenty blocks at the peak."""
    return "█" * round(20 * size / most) + (" peak" if size == most else "") if most else ""


def _stages(stages: Sequence[StageRow]) -> str:
    return "## Stages\n\n" + "\n".join(map(_stage, stages)) if stages else ""


def _stage(stage: StageRow) -> str:
    notes = [stage.kind, f"for {stage.tier}" if stage.tier else "", duration(stage.seconds)]
    notes += ["reused"] if stage.reused else []
    lines = [f"- **{stage.index} {_text(stage.title)}** ({', '.join(_text(note) for note in notes if note)})"]
    for label, text in (
        ("result", stage_figures(stage)),
        ("did", _pairs(stage.facts)),
        ("settings", _pairs(stage.settings)),
    ):
        lines += [f"    - {label}: {text}"] if text else []
    return "\n".join(lines)


def _pairs(values: dict[str, JsonValue]) -> str:
    return ", ".join(f"{_text(name)} {_text(value)}" for name, value in describe(values))


def _reproduce(report: Report) -> str:
    pairs = [("Command", report.command), ("Recipe hash", report.recipe_hash), ("Seed", str(report.seed))]
    pairs += [("Data hash", report.data.fingerprint)] if report.data else []
    pairs += [(f"{row.path} sha256", row.sha256) for row in report.tiers]
    lines = [f"- {_text(name)}: {_code(value)}" for name, value in pairs if value]
    for environment in dict.fromkeys(row.environment for row in report.tiers):
        measured = ", ".join(f"{name} {value}" for name, value in environment if value not in (None, ""))
        lines.append(f"- Measured on: {_text(measured)}")
    return "## To reproduce\n\n" + "\n".join(lines)
