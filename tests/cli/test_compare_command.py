"""`edgeopt compare`: reports as they were measured, models measured now."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from example_report import example_report, example_row
from typer.testing import CliRunner, Result

from edgeopt.cli import app
from edgeopt.report import write_report

DIGITS = Path(__file__).parents[2] / "models" / "digits"


def compare(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["compare", *map(str, arguments)])


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    for name, size in (("a", 20_000), ("b", 15_000)):
        (tmp_path / name).mkdir()
        row = example_row("mcu", size_bytes=size, sha256=name * 64)
        (tmp_path / name / "report.json").write_text(example_report(tiers=(row,)).to_json())
    return tmp_path / "a", tmp_path / "b"


def test_reports_are_compared_in_every_form(folders: tuple[Path, Path], tmp_path: Path) -> None:
    done = compare(*folders)
    assert done.exit_code == 0
    assert "-5 KB (-25.0 %)" in done.output
    assert "**better**" in compare(*folders, "--format", "markdown").output
    assert json.loads(compare(*folders, "--format", "json").output)["tiers"][0]["tier"] == "mcu"
    for name, opens in (("c.html", "<!doctype html>"), ("c.md", "### edgeopt compare"), ("c.txt", "mcu")):
        assert compare(*folders, "--out", tmp_path / name).output == ""
        assert (tmp_path / name).read_text().startswith(opens)


def test_models_are_measured_side_by_side_and_paired() -> None:
    done = compare(DIGITS / "student.onnx", DIGITS / "pruned.onnx", "--data", "digits", "--format", "json")
    assert done.exit_code == 0
    (pair,) = json.loads(done.stdout)["tiers"]
    figures = {own["figure"]: own for own in pair["figures"]}
    assert figures["size"]["outcome"] == "better"
    assert figures["accuracy"]["basis"] == "360 images"
    assert figures["accuracy"]["low"] < figures["accuracy"]["change"] < figures["accuracy"]["high"]
    assert figures["latency"]["basis"] == "timed in turns, spread"
    assert "speedup" not in figures


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["{a}", DIGITS / "student.onnx"], "a report and a model cannot be compared"),
        (["{a}", "{b}", "--data", "digits"], "as they were measured"),
        (["{a}", "none"], "no such file"),
        ([DIGITS / "student.onnx", DIGITS / "student.onnx"], "named twice"),
        ([DIGITS / "student.onnx", "none.onnx"], "none.onnx"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_2(folders: tuple[Path, Path], arguments: list[object], says: str) -> None:
    done = compare(*(str(word).format(a=folders[0], b=folders[1]) for word in arguments))
    assert done.exit_code == 2
    assert says in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_report_written_by_a_run_can_be_compared_with_itself(tmp_path: Path) -> None:
    write_report(example_report(), tmp_path)
    done = compare(tmp_path, tmp_path / "report.json")
    assert done.exit_code == 0
    assert done.output.count("the same file") == 3
