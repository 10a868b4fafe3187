"""The history: lines that survive two writers and a crash, and what is drawn of them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from example_report import example_report, example_row
from rich.console import Console

from edgeopt.errors import StageFailed, UsageError
from edgeopt.report.history import Entry, append_entry, entry_of, find_commit, read_history
from edgeopt.report.history_views import history_html, history_terminal


def entry(n: int = 0, **changes: object) -> Entry:
    made = entry_of(
        example_report(tiers=(example_row("mcu", size_bytes=18_000 + 100 * n), example_row("gpu"))),
        ok=n != 2,
        commit=f"{n:040x}"[::-1],
        time=f"2026-01-{n + 1:02d}T10:00:00+00:00",
    )
    return made.model_copy(update=changes)


def test_what_is_appended_is_read_in_order(tmp_path: Path) -> None:
    path = tmp_path / "new" / "history.jsonl"
    entries = tuple(entry(n) for n in range(3))
    for one in entries:
        append_entry(path, one)
    assert read_history(path) == entries
    assert len(path.read_text().splitlines()) == 3
    assert entries[0].tiers["mcu"].ram_bytes == 2_500  # of the C program, where there is one


def test_a_line_without_an_end_keeps_its_own(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    append_entry(path, entry(0))
    path.write_text(path.read_text().rstrip("\n"))
    append_entry(path, entry(1))
    assert [one.commit for one in read_history(path)] == [entry(0).commit, entry(1).commit]


def test_two_writers_lose_no_line(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    code = (
        "import sys\nfrom pathlib import Path\nfrom edgeopt.report.history import Entry, append_entry\n"
        "for n in range(20):\n"
        "    entry = Entry(time='t', commit=sys.argv[1] + str(n), name='x', ok=True, tiers={})\n"
        f"    append_entry(Path({str(path)!r}), entry)\n"
    )
    writers = [subprocess.Popen([sys.executable, "-c", code, name]) for name in "ab"]
    assert [writer.wait() for writer in writers] == [0, 0]
    assert {one.commit for one in read_history(path)} == {f"{name}{n}" for name in "ab" for n in range(20)}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "no line yet"),
        ('{"version": 1', r"jsonl:1: is not JSON, or was cut short; take the line out"),
        ("\n[]\n", r"jsonl:2"),
        ('{"version": 2, "time": "", "name": "", "ok": true, "tiers": {}}', "version"),
        ('{"version": 1, "time": "", "name": "", "ok": true, "tiers": {"mcu": {"size_bytes": -1}}}', "tiers.mcu.size"),
        ("[" * 100_000, "not JSON"),
    ],
)
def test_a_line_that_is_none_is_named_and_nothing_is_lost(tmp_path: Path, content: str, says: str) -> None:
    path = tmp_path / "history.jsonl"
    path.write_text(content)
    with pytest.raises(UsageError, match=says):
        read_history(path)
    if content:
        with pytest.raises(UsageError):
            append_entry(path, entry())
    assert path.read_text() == content


def test_a_file_that_is_missing_binary_or_cannot_be_written_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="edgeopt gate report"):
        read_history(tmp_path / "none.jsonl")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="not text"):
        read_history(tmp_path / "bytes")
    with pytest.raises((StageFailed, UsageError)):
        append_entry(tmp_path / "bytes" / "history.jsonl", entry())


def test_the_commit_is_that_of_the_ci_system_or_of_git(tmp_path: Path) -> None:
    assert find_commit({"CI_COMMIT_SHA": "abc"}, tmp_path) == "abc"
    assert find_commit({"GITHUB_SHA": "def", "CI_COMMIT_SHA": ""}, tmp_path) == "def"
    assert find_commit({}, tmp_path) == ""
    identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    for words in (["init", "-q"], [*identity, "commit", "-q", "--allow-empty", "-m", "x"]):
        subprocess.run(["git", "-C", str(tmp_path), *words], check=True)
    assert re.fullmatch(r"[0-9a-f]{40}", find_commit({}, tmp_path))


def test_the_page_draws_a_point_for_each_commit_and_tier() -> None:
    entries = [entry(n) for n in range(4)]
    page = history_html(entries)
    drawings = [ElementTree.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", page, re.DOTALL)]
    labels = [svg.get("aria-label") for svg in drawings]
    assert labels[:2] == ["Size over 4 commits", "Accuracy over 4 commits"]
    points = drawings[0].findall(".//circle")
    assert len(points) == 8
    assert sum(point.get("class") == "failed" for point in points) == 2
    mcu = [float(point.get("cy", "")) for point in points[:4]]
    assert mcu == sorted(mcu, reverse=True)  # it grows, and up is more
    assert "18.3 KB" in page
    assert "<script" not in page
    assert "http" not in page.split("</style>")[1]


def test_one_commit_and_names_from_elsewhere_can_be_drawn() -> None:
    tiers = {"<b>": entry().tiers["mcu"]}
    page = history_html([entry(name="<script>alert(1)</script>", commit="<i>", tiers=tiers)])
    assert "<script>alert" not in page
    assert "<i>" not in page
    assert "<b>" not in page


def test_the_terminal_shows_the_newest_in_80_columns() -> None:
    screen = Console(width=80)
    with screen.capture() as capture:
        for part in history_terminal([entry(n % 28) for n in range(30)]):
            screen.print(part)
    text = capture.get()
    assert "the newest 20 of 30" in text
    assert text.count("mcu") == 20
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize("figure", ["NaN", "Infinity", "1e400"])
def test_a_figure_that_is_no_number_is_refused(tmp_path: Path, figure: str) -> None:
    line = f'{{"version":1,"time":"x","name":"x","ok":true,"tiers":{{"m":{{"size_bytes":1,"accuracy":{figure}}}}}}}\n'
    (tmp_path / "history.jsonl").write_text(line)
    with pytest.raises(UsageError, match=r"history\.jsonl:1: tiers\.m\.accuracy"):
        read_history(tmp_path / "history.jsonl")
