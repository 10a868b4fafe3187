"""`edgeopt report`: show a finished report again, in another form."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from edgeopt.cli.console import console
from edgeopt.report.report import Report, read_report


class Format(StrEnum):
    """The views of a report."""

    terminal = "terminal"
    markdown = "markdown"
    html = "html"
    json = "json"


def report(
    path: Annotated[Path, typer.Argument(help="A run's report.json, or the folder that holds it.")],
    format: Annotated[Format, typer.Option(help="What to show it as.")] = Format.terminal,
    out: Annotated[Path | None, typer.Option(help="Write to this file instead of the screen.")] = None,
) -> None:
    """Show a finished report. Nothing is run or measured again."""
    found = read_report(path / "report.json" if path.is_dir() else path)
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

    screen = console()
    with screen.capture() as capture:
        for renderable in to_terminal(found):
            screen.print(renderable)
    return Text.from_ansi(capture.get()).plain + "\n" if to_file else capture.get()
