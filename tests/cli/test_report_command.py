"""`edgeopt report`: every view from report.json alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from example_report import example_report
from typer.testing import CliRunner, Result

from edgeopt.cli import app
from edgeopt.report import write_report


def report(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["report", *map(str, arguments)])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_report(example_report(), tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("format", "file"), [("markdown", "report.md"), ("html", "report.html"), ("json", "report.json")]
)
def test_a_view_is_the_file_that_the_run_wrote(folder: Path, format: str, file: str) -> None:
    done = report(folder / "report.json", "--format", format)
    assert done.exit_code == 0
    assert done.stdout == (folder / file).read_text()
    again = folder / "elsewhere" / "again"
    assert report(folder, "--format", format, "--out", again).exit_code == 0
    assert again.read_text() == (folder / file).read_text()


def test_the_terminal_view_is_plain_in_a_pipe_and_in_a_file(folder: Path) -> None:
    done = report(folder)
    assert "98.06 %" in done.stdout
    assert "\x1b" not in done.stdout
    assert report(folder, "--out", folder / "t.txt").exit_code == 0
    assert "98.06 %" in (folder / "t.txt").read_text()
    assert "\x1b" not in (folder / "t.txt").read_text()


def test_a_mistake_is_one_sentence_and_exit_2(folder: Path) -> None:
    (folder / "report.json").write_text("{")
    done = report(folder)
    assert done.exit_code == 2
    assert done.stderr.count("\n") == 1
    assert report(folder / "none.json").exit_code == 2
