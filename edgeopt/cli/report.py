"""`edgeopt report`: show a finished report again, in another form."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from edgeopt.cli.console import printed
from edgeopt.errors import UsageError
from edgeopt.report.report import Report, read_report, report_path


class Format(StrEnum):
    """The views of a report."""

    terminal = "terminal"
    markdown = "markdown"
    html = "html"
    json = "json"


def report(
    path: Annotated[Path | None, typer.Argument(help="A run's report.json, or the folder that holds it.")] = None,
    format: Annotated[Format, typer.Option(help="What to show it as.")] = Format.terminal,
    out: Annotated[Path | None, typer.Option(help="Write to this file instead of the screen.")] = None,
    history: Annotated[
        Path | None,
        typer.Option(help="Show instead what `edgeopt gate --history FILE` wrote: size and accuracy over commits."),
    ] = None,
) -> None:
    """Show a finished report, or a history of them. Nothing is run or measured again."""
    if (path is None) == (history is None):
        raise UsageError("give either a report or --history FILE", fix="`edgeopt report out/report.json`")
    if path is None:
        assert history is not None
        text = _history_text(history, format, to_file=out is not None)
    else:
        found = read_report(report_path(path))
        text = _text(found, format, to_file=out is not None)
    if out is not None:
        from edgeopt.atomic import write_atomic

        write_atomic(out, text)
    else:
        sys.stdout.write(text)


def _text(found: Report, format: Format, *, to_file: bool) -> str:
    if format is Format.json:
        return found.to_json()
    if format is Format.html:
        from edgeopt.report.html import to_html

        return to_html(found)
    if format is Format.markdown:
        from edgeopt.report.markdown import to_markdown

        return to_markdown(found)
    from edgeopt.report.terminal import to_terminal

    return printed(to_terminal(found), to_file=to_file)


def _history_text(path: Path, format: Format, *, to_file: bool) -> str:
    from edgeopt.report.history import read_history
    from edgeopt.report.history_views import history_html, history_terminal

    entries = read_history(path)
    if format is Format.html:
        return history_html(entries)
    if format is not Format.terminal:
        raise UsageError(
            f"a history has no {format} form", where="--format", fix="use terminal or html; the file itself is JSON"
        )
    return printed(history_terminal(entries), to_file=to_file)
