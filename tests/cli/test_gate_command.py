"""`edgeopt gate`: one line a limit, exit 0, 1 or 2, in half a second."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from example_report import example_report, write_artifacts
from typer.testing import CliRunner, Result

from edgeopt.cli import app
from edgeopt.report import write_report


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What a run leaves."""
    write_artifacts(tmp_path)
    write_report(example_report(), tmp_path)
    return tmp_path


def gate(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["gate", *map(str, arguments)])


def test_the_recipes_own_limits_are_checked_when_none_are_given(folder: Path) -> None:
    done = gate(folder / "report.json")
    assert done.exit_code == 0
    assert done.output.count("pass") == 3 + 5
    assert "FAIL" not in done.output
    assert gate(folder).output == done.output


def test_each_flag_can_fail_the_gate(folder: Path) -> None:
    flags = {
        "--max-size": "1KB",
        "--max-drop": "0.1pt",
        "--min-accuracy": "99%",
        "--min-speedup": "9",
        "--max-latency": "1us",
        "--max-macs": "1k",
        "--max-params": "1k",
        "--max-ram": "1KiB",
        "--max-flash": "1KB",
        "--max-instructions": "1k",
        "--max-mismatches": "0",
    }
    for flag, bound in flags.items():
        done = gate(folder / "report.json", flag, f"mcu={bound}")
        assert done.exit_code == 1, flag
        assert done.stdout.count("FAIL") == 1
        assert "1 of 4 checks failed" in done.output


def test_given_limits_replace_those_of_the_recipe(folder: Path) -> None:
    done = gate(folder / "report.json", "--max-size", "mcu=1GB")
    assert done.exit_code == 0
    assert "accuracy" not in done.output


def test_flags_go_before_a_file_of_limits(folder: Path, tmp_path: Path) -> None:
    limits = tmp_path / "gate.yaml"
    limits.write_text("mcu: {size: 1KB}\n")
    assert gate(folder, "--limits", limits).exit_code == 1
    assert gate(folder, "--limits", limits, "--max-size", "mcu=20KB").exit_code == 0
    limits.write_text("mcu: {sise: 1KB}\n")
    done = gate(folder, "--limits", limits)
    assert done.exit_code == 2
    assert f"{limits}:1" in done.stderr


def test_a_stale_artifact_fails_unless_only_the_report_is_asked_for(folder: Path) -> None:
    (folder / "mcu" / "model.onnx").write_bytes(b"another model")
    done = gate(folder)
    assert done.exit_code == 1
    assert "changed since it was measured" in done.stdout
    assert gate(folder, "--report-only").exit_code == 0


def test_json_holds_the_verdicts_and_nothing_else(folder: Path) -> None:
    done = gate(folder, "--json", "--max-size", "mcu=1KB")
    content = json.loads(done.stdout)
    assert done.exit_code == 1
    assert content["ok"] is False
    failed = [verdict for verdict in content["verdicts"] if not verdict["ok"]]
    assert [(v["tier"], v["limit"], v["found"], v["allowed"]) for v in failed] == [("mcu", "size", 18_213, 1_000)]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--max-size", "mcx=1KB"], "mcx"),
        (["--max-size", "much"], "'much' is not a size"),
        (["--limits", "none.yaml"], "none.yaml"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_2(folder: Path, arguments: list[str], says: str) -> None:
    done = gate(folder, *arguments)
    assert done.exit_code == 2
    assert says in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_without_any_limit_it_says_what_to_give(tmp_path: Path) -> None:
    write_report(example_report(limits={}), tmp_path)
    done = gate(tmp_path)
    assert done.exit_code == 2
    assert "--max-size" in done.stderr


def test_a_bare_model(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    path = tmp_path / "m.onnx"
    text = '<ir_version: 8, opset_import: ["" : 17]> g (float[n, 4] x) => (float[n, 4] y) { y = Relu(x) }'
    onnx.save(onnx.parser.parse_model(text), path)
    assert gate(path, "--max-size", "1KB", "--max-params", "0").exit_code == 0
    assert gate(path, "--max-size", "10").exit_code == 1
    for arguments, says in (
        (["--max-drop", "1pt"], "report.json"),
        ([], "--max-size"),
        (["--max-size", "mcu=1KB"], "no tier"),
    ):
        done = gate(path, *arguments)
        assert done.exit_code == 2
        assert says in done.stderr
    path.write_bytes(b"this is not a model")
    assert gate(path, "--max-size", "1KB").exit_code == 2


def test_it_takes_half_a_second_and_loads_nothing_heavy(folder: Path) -> None:
    code = (
        "import sys\nfrom edgeopt.cli import app\n"
        f"try: app(['gate', {str(folder)!r}])\nexcept SystemExit as end: assert end.code == 0\n"
        "print([name for name in ('torch', 'onnx', 'numpy', 'onnxruntime') if name in sys.modules])"
    )
    seconds = []
    for _ in range(4):
        before = processor_seconds()
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        seconds.append(processor_seconds() - before)
        assert done.stdout.splitlines()[-1] == "[]"
    assert min(seconds) < 0.5


def processor_seconds() -> float:
    """Of finished child processes; unlike wall time, it does not count what else the machine does."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
