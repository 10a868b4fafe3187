"""Where the verdicts of `edgeopt gate` go: the screen, files, a job's summary, badges, the history."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from rich.text import Text

from edgeopt.atomic import write_atomic
from edgeopt.cli.console import console, hanging, wraps
from edgeopt.errors import StageFailed, UsageError
from edgeopt.gate import formats
from edgeopt.gate.formats import Checked
from edgeopt.report.limits import Verdict

__all__ = ["Format", "Output", "parse_outputs", "record", "write_badges", "write_outputs"]


class Format(StrEnum):
    """The forms of the verdicts."""

    text = "text"
    json = "json"
    junit = "junit"
    github = "github"
    markdown = "markdown"


DOCUMENTS = (Format.json, Format.junit, Format.markdown)
"""Forms that are whole documents: on the screen, nothing may stand beside them."""
WIDEST = 120
"""Columns of a line of text, however wide the screen is."""


@dataclass(frozen=True)
class Output:
    """One form, and where it goes; None: the screen."""

    format: Format
    file: Path | None


def parse_outputs(given: Sequence[str]) -> list[Output]:
    """`["text", "junit=gate.xml"]`. Text goes to the screen unless something else does. Raises UsageError."""
    outputs = [_parse(text) for text in given]
    shown = [output.format for output in outputs if output.file is None]
    documents = [form for form in shown if form in DOCUMENTS]
    if documents and len(set(shown)) > 1:
        raise UsageError(
            f"{' and '.join(dict.fromkeys(shown))} cannot share the screen",
            where="--format",
            fix=f"give one a file, as in --format {documents[0]}=FILE",
        )
    return outputs if shown else [Output(Format.text, None), *outputs]


def _parse(text: str) -> Output:
    name, sign, file = text.partition("=")
    if name not in list(Format):
        raise UsageError(f"{name!r} is not one of {', '.join(Format)}", where="--format")
    if sign and not file:
        raise UsageError(f"{text!r} names no file", where="--format", fix=f"write --format {name}=FILE")
    return Output(Format(name), Path(file) if file else None)


def write_outputs(checked: Sequence[Checked], outputs: Sequence[Output]) -> None:
    """Each form to its place; `github` also adds to the job's summary. Raises StageFailed."""
    for output in outputs:
        if output.format is Format.text and output.file is None:
            _show(checked)
            continue
        text = _render(output.format, checked)
        if output.file is not None:
            write_atomic(output.file, text)
        else:
            sys.stdout.write(text)
        summary = os.environ.get("GITHUB_STEP_SUMMARY")
        if output.format is Format.github and summary:
            _append(Path(summary), formats.to_markdown(checked))


def _render(form: Format, checked: Sequence[Checked]) -> str:
    match form:
        case Format.json:
            return formats.to_json(checked)
        case Format.junit:
            return formats.to_junit(checked)
        case Format.github:
            return formats.to_annotations(checked)
        case Format.markdown:
            return formats.to_markdown(checked)
        case Format.text:
            return "".join(f"{line.plain}\n" for one in checked for line in _lines(one, None))


def _show(checked: Sequence[Checked]) -> None:
    terminal = console()
    width = min(terminal.width, WIDEST) if wraps(terminal) else None
    for one in checked:
        if len(checked) > 1 and one.report is not None:
            terminal.print(Text(one.path, "bold"), soft_wrap=True)
        for line in _lines(one, width):
            terminal.print(line, soft_wrap=True)


def _lines(one: Checked, width: int | None) -> list[Text]:
    """A line for each verdict, wrapped to `width` columns; None: not wrapped."""
    tier_width = max((len(verdict.tier) for verdict in one.verdicts), default=0)
    limit_width = max((len(verdict.limit) for verdict in one.verdicts), default=0)
    heads = [
        _word(verdict) + f"  {verdict.tier:<{tier_width}}  {verdict.limit:<{limit_width}}  " for verdict in one.verdicts
    ]
    return [
        head + verdict.sentence if width is None else hanging(head, verdict.sentence, width)
        for head, verdict in zip(heads, one.verdicts, strict=True)
    ]


def _word(verdict: Verdict) -> Text:
    if verdict.ok:
        return Text("pass", "yellow" if verdict.uncertain else "green")
    return Text("FAIL", "bold red")


def _append(path: Path, text: str) -> None:
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise StageFailed(f"cannot be written ({error.strerror})", where=f"GITHUB_STEP_SUMMARY {path}") from error


def write_badges(checked: Sequence[Checked], given: Sequence[str]) -> None:
    """`badge.svg` is the whole verdict, `mcu=mcu.svg` a tier's figures. Raises UsageError, StageFailed."""
    from edgeopt.gate.badge import gate_badge, tier_badge

    rows = {row.tier: (row, one) for one in checked if one.report is not None for row in one.report.tiers}
    for text in given:
        tier, sign, file = text.rpartition("=")
        if not file.endswith(".svg") or (sign and tier not in rows):
            known = f"; tiers are {', '.join(rows)}" if rows else ""
            raise UsageError(f"{text!r} is not FILE.svg or TIER=FILE.svg{known}", where="--badge")
        if sign:
            row, one = rows[tier]
            write_atomic(Path(file), tier_badge(row, one.verdicts))
        else:
            write_atomic(Path(file), gate_badge([verdict for one in checked for verdict in one.verdicts]))


def record(checked: Sequence[Checked], history: Path) -> None:
    """A line for each report. Raises UsageError, StageFailed."""
    from edgeopt.report.history import append_entry, entry_of, find_commit

    for one in checked:
        if one.report is None:
            raise UsageError("a model file has no figures to record", where=one.path, fix="give the run's report.json")
    for one in checked:
        assert one.report is not None
        commit = find_commit(os.environ, Path(one.path).parent)
        append_entry(history, entry_of(one.report, ok=one.ok, commit=commit))
