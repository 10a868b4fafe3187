"""The terminal: what is shown while a run works and when it is done, in a pipe and on a terminal of 60 columns."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from example_report import example_report
from rich.console import Console
from rich.table import Table
from rich.text import Text
from terminal import CONTROL, on_terminal, screen_lines

from edgeopt.cli.console import TerminalProgress, bar, console, hanging, quietly, sparkline
from edgeopt.cli.summary import summarize

ROOT = Path(__file__).parents[2]
STUDENT = str(ROOT / "models" / "digits" / "student.onnx")
COMMANDS = (
    ["tiers"],
    ["doctor"],
    ["explain", "--all"],
    ["explain", "quantize.preset"],
    ["recipe", "list"],
    ["inspect", STUDENT, "--tier", "mcu"],
    ["run", "digits", "--dry-run"],
)
COLOUR = r"\x1b\[(?:\d+;)*(?:3[0-8]|4[0-8]|9[0-7])(?:;\d+)*m"


def edgeopt(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "edgeopt", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | env,
    )


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_line_fits_60_columns(command: list[str], tmp_path: Path) -> None:
    code, shown = on_terminal(*command, width=60, cwd=tmp_path)
    assert code == 0, shown
    copied = ("edgeopt run RECIPE --set", "edgeopt quantize MODEL", "out/digits")  # to be copied whole: never broken
    wide = [line for line in screen_lines(shown) if len(line) > 60 and not any(text in line for text in copied)]
    assert wide == []


def test_no_color_is_heeded_on_a_terminal(tmp_path: Path) -> None:
    import re

    assert re.search(COLOUR, on_terminal("gate", str(ROOT / "models" / "digits"), cwd=tmp_path)[1])
    plain = on_terminal("gate", str(ROOT / "models" / "digits"), cwd=tmp_path, env={"NO_COLOR": "1"})[1]
    assert not re.search(COLOUR, plain)


def test_in_a_pipe_there_are_no_control_characters_and_columns_is_heeded() -> None:
    done = edgeopt("tiers", COLUMNS="60")
    assert not CONTROL.search(done.stdout + done.stderr)
    assert max(map(len, done.stdout.splitlines())) <= 60


def test_progress_in_a_pipe_is_a_plain_line_a_stage(capsys: pytest.CaptureFixture[str]) -> None:
    with TerminalProgress() as progress:
        progress.expect(2)
        progress.stage("train")
        progress.start("training", 4)
        for loss in (2.0, 1.0, 0.5, 0.25):
            progress.advance(1, f"loss {loss}")
        progress.stage("measure")
        progress.warn("slow")
    shown = capsys.readouterr()
    assert shown.out == ""
    lines = shown.err.splitlines()
    assert lines[0] == "1/2 train"
    assert lines[1].split(" s  ")[1].startswith("loss 0.25")
    assert lines[2:] == ["2/2 measure", "warning: slow"]
    assert not CONTROL.search(shown.err)


def test_work_that_goes_on_says_so_twice_a_minute(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr("edgeopt.cli.console.time.monotonic", lambda: now[0])
    progress = TerminalProgress()
    progress.stage("train")
    progress.start("training", 100)
    for _ in range(70):
        now[0] += 1
        progress.advance(1, "loss 1.0")
    lines = capsys.readouterr().err.splitlines()
    assert lines[1:] == [
        "  training 30/100, about 70 s left  loss 1.0",
        "  training 60/100, about 40 s left  loss 1.0",
    ]


def test_quiet_shows_neither_progress_nor_warnings(capsys: pytest.CaptureFixture[str]) -> None:
    with quietly(True), TerminalProgress() as progress:
        progress.stage("train")
        progress.warn("slow")
    with quietly(False), TerminalProgress() as progress:
        progress.stage("loud")
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err == "loud\n"


def test_sparklines_and_bars() -> None:
    assert sparkline([8, 7, 6, 5, 4, 3, 2, 1]) == "█▇▆▅▄▃▂▁"
    assert len(sparkline(list(range(1000)), 10)) == 10
    assert sparkline([1.0]) == ""
    assert sparkline([2.0, 2.0]) == "▁▁"
    assert bar(1.0, 10) == "█" * 10
    assert bar(0.0, 10) == ""
    assert bar(0.55, 10) == "█████▌"


@pytest.mark.parametrize("width", [80, 60])
@pytest.mark.parametrize("copies", [1, 4])
def test_the_summary_has_at_most_ten_lines_and_says_what_to_do_next(width: int, copies: int, tmp_path: Path) -> None:
    report = example_report()
    rows = [row.model_copy(update={"tier": f"{row.tier}{n or ''}"}) for n in range(copies) for row in report.tiers]
    report = report.model_copy(update={"tiers": tuple(rows)})
    screen = Console(width=width, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    for line in summarize(report, Path("out/digits"), width):
        screen.print(line)
    lines = screen.export_text().rstrip("\n").splitlines()
    assert len(lines) <= 10
    assert max(map(len, lines)) <= width
    text = "\n".join(lines)
    assert "98.06 %" in text
    assert "edgeopt gate out/digits" in text
    assert "out/digits/report.html" in text
    assert ("more" in text) == (copies > 1)


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("edgeopt qua", "quantize"),
        ("edgeopt quantize --tier mc", "mcu"),
        ("edgeopt quantize --preset b", "balanced"),
        ("edgeopt run dig", "digits"),
        ("edgeopt explain quantize.pre", None),
        ("edgeopt explain stages.quantize.pre", "stages.quantize.preset"),
        ("edgeopt run digits --set stages.prune.tar", "stages.prune.target"),
    ],
)
def test_the_shell_completes(words: str, offered: str | None) -> None:
    program = "from edgeopt.cli import app; app(prog_name='edgeopt')"
    count = str(len(words.split()) - 1)
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"_EDGEOPT_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": count},
    )
    found = done.stdout.split()
    assert found[:1] == ([offered] if offered else []), done.stderr


@pytest.mark.slow
def test_ctrl_c_says_how_to_go_on_and_the_same_command_does(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(
        "model: {source: edgeopt:residual, settings: {channels: 1, size: 8, width: 4, blocks: [1]}}\n"
        "data: {source: digits, limit: 200}\nstages: [{kind: train, fit: {epochs: 3000, batch_size: 50}}]\n"
    )
    code, shown = on_terminal("run", "r.yaml", cwd=tmp_path, interrupt_at=r"[1-9]\d+/12000")  # some epochs are done
    assert code == 130
    words = " ".join(CONTROL.sub("", shown).split())
    assert "the same command goes on from the last finished stage or epoch" in words
    assert "Traceback" not in shown
    assert "2/4 train" in words
    assert "goes on" in edgeopt("run", str(tmp_path / "r.yaml"), "--dry-run", "--out", str(tmp_path / "out/r")).stdout


def test_control_characters_in_a_strangers_names_do_not_reach_the_screen(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table("x\x1b[2J")
    table.add_row(Text("\x1b]0;title\x07"), "\x9b31m")
    console().print(table)
    shown = capsys.readouterr().out
    assert "[2J" in shown
    assert not [mark for mark in shown if mark != "\n" and (mark < " " or "\x7f" <= mark <= "\x9f")]


def test_a_sentence_hangs_below_where_it_begins() -> None:
    words = "0.28 pt (95 % sure of at most 1.24 pt, 360 images), allowed at most 1.00 pt"
    lines = hanging(Text("FAIL  mcu  drop  "), words, 60).plain.split("\n")
    assert lines[0].startswith("FAIL  mcu  drop  0.28 pt")
    assert all(line.startswith(" " * 17) and line[17] != " " for line in lines[1:])
    assert max(map(len, lines)) <= 60
    assert " ".join(line[17:] for line in lines) == words
    narrow = hanging(Text("FAIL  mcu  drop  "), words, 40).plain.split("\n")
    assert narrow[0].strip() == "FAIL  mcu  drop"
    assert all(line.startswith(" " * 6) and line[6] != " " for line in narrow[1:])
