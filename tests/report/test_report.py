"""report.json: what is written is what is read, and what is not a report is refused in one sentence."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from example_report import example_report, example_row
from pydantic import ValidationError

from edgeopt.errors import StageFailed, UsageError
from edgeopt.report import Report, StageRow, read_report, write_report


def test_what_is_written_is_what_is_read(tmp_path: Path) -> None:
    report = example_report()
    write_report(report, tmp_path)
    assert read_report(tmp_path / "report.json") == report
    assert sorted(p.name for p in tmp_path.iterdir()) == ["report.html", "report.json", "report.md"]


def test_each_row_has_the_figures_that_other_tools_rely_on(tmp_path: Path) -> None:
    write_report(example_report(), tmp_path)
    content = json.loads((tmp_path / "report.json").read_text())
    wanted = "tier path sha256 size_bytes params macs peak_ram_bytes accuracy accuracy_low accuracy_high samples "
    wanted += "drop_points latency_ms speedup baseline environment"
    for row in content["tiers"]:
        assert set(wanted.split()) <= set(row)
    assert {"recipe_hash", "seed", "stages", "version"} <= set(content)
    assert all({"facts", "seconds"} <= set(stage) for stage in content["stages"])


def test_equal_reports_give_equal_bytes() -> None:
    assert example_report().to_json() == example_report().to_json()


def test_facts_of_numpy_and_not_finite_numbers_do_not_lose_the_report() -> None:
    np = pytest.importorskip("numpy")
    facts = {"ratio": np.float32(0.5), "widths": (np.int64(3), 4), "curve": np.arange(3), "bad": math.nan}
    stage = StageRow(index=1, kind="prune", title="Prune", facts=facts)
    report = example_report(stages=(stage,))
    assert Report.model_validate_json(report.to_json()) == report
    assert stage.facts == {"ratio": 0.5, "widths": [3, 4], "curve": [0, 1, 2], "bad": None}


@pytest.mark.parametrize(
    "changes", [{"accuracy": 1.2}, {"accuracy": math.nan}, {"size_bytes": -1}, {"latency_ms": math.inf}]
)
def test_impossible_figures_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        example_row("mcu", **changes)


def broken(text: str, **changes: Any) -> str:
    return json.dumps(json.loads(text) | changes)


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (lambda text: "", "cut short"),
        (lambda text: text[: len(text) // 2], "cut short"),
        (lambda text: "\x89PNG", "is not JSON"),
        (lambda text: "[" * 100_000, "is not JSON"),
        (lambda text: "[1, 2]", "not a report"),
        (lambda text: '{"accuracy": 1}', "not a report"),
        (lambda text: broken(text, version=2), "version 2"),
        (lambda text: broken(text, sede=1), "sede"),
        (lambda text: broken(text, seed="x"), "seed"),
        (lambda text: broken(text, tiers=[{"tier": "mcu"}]), "tiers.0.path"),
    ],
)
def test_what_is_not_a_report_is_refused(tmp_path: Path, edit: Any, says: str) -> None:
    path = tmp_path / "report.json"
    path.write_text(edit(example_report().to_json()))
    with pytest.raises(UsageError) as caught:
        read_report(path)
    assert str(path) in str(caught.value)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_report_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        read_report(tmp_path / "report.json")
    with pytest.raises(UsageError, match="cannot be read"):
        read_report(tmp_path)


def test_a_report_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    write_report(example_report(), tmp_path)
    before = (tmp_path / "report.json").read_bytes()
    (tmp_path / "report.html").unlink()
    (tmp_path / "report.html").mkdir()
    with pytest.raises(StageFailed):
        write_report(example_report(seed=8), tmp_path)
    assert (tmp_path / "report.json").read_bytes() == before


def test_report_and_gate_load_no_heavy_library() -> None:
    code = (
        "import sys, edgeopt.gate, edgeopt.report.html, edgeopt.report.markdown, edgeopt.report.terminal, "
        "edgeopt.report.onnx_file, edgeopt.cli.gate, edgeopt.cli.report\n"
        "print([name for name in ('torch', 'onnx', 'onnx_ir', 'onnxruntime', 'numpy') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
