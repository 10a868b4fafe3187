"""report.md: for a pull request, a wiki or a terminal pager."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from pydantic import JsonValue

from edgeopt.report.figures import c_program, columns_of, describe, duration, stage_figures, summary
from edgeopt.report.report import Report, Row, StageRow

__all__ = ["escape_markdown", "markdown_table", "to_markdown"]

WORST = 5
"""Classes that are named."""
OUTCOMES = {"pass": "pass", "fail": "**FAIL**", "cannot tell": "**cannot tell**"}


def to_markdown(report: Report) -> str:
    """The report as GitHub-flavoured markdown; text from recipes and models is escaped."""
    sections = [
        _head(report),
        _artifacts(report),
        _verdicts(report),
        _changes(report.tiers),
        _c_programs(report),
        _stages(report.stages),
        _reproduce(report),
    ]
    return "\n\n".join(filter(None, sections)) + "\n"


def escape_markdown(value: str) -> str:
    """One line on which nothing is markup."""
    return re.sub(r"([\\`*_{}\[\]<>#|~!])", r"\\\1", " ".join(value.split()))


def _code(value: str) -> str:
    """One line in backticks, more of them than the text has in a row."""
    line = " ".join(value.split())
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", line)), default=0))
    return f"{fence} {line} {fence}" if "`" in line else f"`{line}`"


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _head(report: Report) -> str:
    facts = [f"{escape_markdown(report.data.name)}, {report.data.test:,} test images"] if report.data else []
    facts += [escape_markdown(report.created.replace("T", " ")[:16]), f"took {duration(report.seconds)}"]
    lines = [f"# {escape_markdown(report.name)}", " · ".join(filter(None, facts)), f"**{summary(report)[1]}**"]
    notes = [*report.warnings, *(f"{row.tier}: {text}" for row in report.tiers for text in row.warnings)]
    lines += ["\n".join(f"- Warning: {escape_markdown(note)}" for note in notes)] if notes else []
    return "\n\n".join(lines)


def _artifacts(report: Report) -> str:
    if not report.tiers:
        return ""
    columns = columns_of(report)
    rows = [[f"**{escape_markdown(row.tier)}**", *_cells(row, report)] for row in report.tiers]
    for base in dict.fromkeys(row.baseline for row in report.tiers):
        rows.append([escape_markdown(base.name), *(column.baseline(base) for column in columns)])
    return "## Artifacts\n\n" + markdown_table(["Tier", *(column.heading for column in columns)], rows)


def _cells(row: Row, report: Report) -> list[str]:
    cells = []
    for column in columns_of(report):
        detail = column.detail(row)
        cells.append(escape_markdown(column.artifact(row)) + (f"<br><sub>{detail}</sub>" if detail else ""))
    return cells


def _verdicts(report: Report) -> str:
    if not report.gate:
        return ""
    rows = [
        [OUTCOMES[verdict.outcome], *map(escape_markdown, (verdict.tier, verdict.limit, verdict.sentence))]
        for verdict in report.gate
    ]
    lines = ["", "Tier", "Limit", "Found"]
    return "## Gate\n\n" + markdown_table(lines, rows).replace("---:", "---")


def _changes(rows: Sequence[Row]) -> str:
    """How many answers changed beside the float model, and in which classes most were lost."""
    known = [row for row in rows if row.changed is not None]
    return "## Changed answers\n\n" + "\n".join(map(_change, known)) if known else ""


def _change(row: Row) -> str:
    of = f" of {row.samples:,}" if row.samples else ""
    lost, gained = sum(own.lost for own in row.classes), sum(own.gained for own in row.classes)
    told = f": {lost:,} lost, {gained:,} gained" if row.classes else ""
    worst = ", ".join(f"{escape_markdown(own.name)} ({own.lost:,})" for own in row.classes[:WORST] if own.lost)
    return f"- {escape_markdown(row.tier)}: {row.changed:,}{of}{told}{f'; most lost: {worst}' if worst else ''}"


def _c_programs(report: Report) -> str:
    """The C program's figures, and what each layer needs of its arena, as bars."""
    parts = []
    for row in report.tiers:
        figures = c_program(row)
        parts += [f"**{escape_markdown(row.tier)}**: {escape_markdown(figures)}"] if figures else []
        if row.memory_timeline:
            most = max(moment.bytes for moment in row.memory_timeline)
            lines = [
                [escape_markdown(own.layer), f"{own.bytes:,}", _bar(own.bytes, most)] for own in row.memory_timeline
            ]
            parts.append(markdown_table(["Layer", "Bytes in use", ""], lines))
    return "\n\n".join(["## The C program", *parts]) if parts else ""


def _bar(size: int, most: int) -> str:
    """Twenty blocks at the peak."""
    return "█" * round(20 * size / most) + (" peak" if size == most else "") if most else ""


def _stages(stages: Sequence[StageRow]) -> str:
    return "## Stages\n\n" + "\n".join(map(_stage, stages)) if stages else ""


def _stage(stage: StageRow) -> str:
    notes = [stage.kind, f"for {stage.tier}" if stage.tier else "", duration(stage.seconds)]
    notes += ["reused"] if stage.reused else []
    about = ", ".join(escape_markdown(note) for note in notes if note)
    lines = [f"- **{stage.index} {escape_markdown(stage.title)}** ({about})"]
    for label, text in (
        ("result", stage_figures(stage)),
        ("did", _pairs(stage.facts)),
        ("settings", _pairs(stage.settings)),
    ):
        lines += [f"    - {label}: {text}"] if text else []
    return "\n".join(lines)


def _pairs(values: dict[str, JsonValue]) -> str:
    return ", ".join(f"{escape_markdown(name)} {escape_markdown(value)}" for name, value in describe(values))


def _reproduce(report: Report) -> str:
    pairs = [("Command", report.command), ("Recipe hash", report.recipe_hash), ("Seed", str(report.seed))]
    pairs += [("Data hash", report.data.fingerprint)] if report.data else []
    pairs += [(f"{row.path} sha256", row.sha256) for row in report.tiers]
    lines = [f"- {escape_markdown(name)}: {_code(value)}" for name, value in pairs if value]
    for environment in dict.fromkeys(row.environment for row in report.tiers):
        measured = ", ".join(f"{name} {value}" for name, value in environment if value not in (None, ""))
        lines.append(f"- Measured on: {escape_markdown(measured)}")
    return "## To reproduce\n\n" + "\n".join(lines)
