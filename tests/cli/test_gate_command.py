"""`edgeopt gate`: one line a limit, exit 0, 1 or 2, in half a second."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from example_report import example_report, example_row, write_artifacts
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
        "--max-lint": "0",
        "--operators": "Gemm",
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
        (["--baseline", "none.json", "--max-regression", "size=2%"], "none.json"),
        (["--max-regression", "size=2%"], "give --baseline main.json"),
        (["--baseline", "none.json"], "give --max-regression size=2%"),
        (["size=2%"], "give --baseline main.json"),
        (["--format", "yaml"], "'yaml' is not one of text, json, junit, github, markdown"),
        (["--format", "json", "--format", "text"], "cannot share the screen; give one a file"),
        (["--format", "junit="], "names no file"),
        (["--tier", "mcu"], "a report names its tiers"),
        (["--badge", "badge.png"], "FILE.svg"),
        (["--badge", "mcx=badge.svg"], "tiers are mcu, jetson, gpu"),
        (["--operators", "gpu"], "takes every operator"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_2(folder: Path, arguments: list[str], says: str) -> None:
    done = gate(folder, *arguments)
    assert done.exit_code == 2
    assert says in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == "" or "--badge" in arguments


def test_a_file_that_limits_nothing_is_no_gate(folder: Path, tmp_path: Path) -> None:
    limits = tmp_path / "gate.yaml"
    for text in ("all: {allow_uncertain: true}\n", "mcu: {}\n"):
        limits.write_text(text)
        done = gate(folder, "--limits", limits)
        assert done.exit_code == 2
        assert "gives no limit" in done.stderr


def test_what_cannot_be_told_fails_says_so_and_may_be_allowed(folder: Path) -> None:
    done = gate(folder, "--max-drop", "mcu=1pt")
    assert done.exit_code == 1
    assert "cannot tell with 360 samples (needs about " in done.stdout
    assert "--allow-uncertain" in done.stderr
    assert gate(folder, "--max-drop", "mcu=1pt", "--allow-uncertain").exit_code == 0
    assert gate(folder, "--max-drop", "mcu=0.5pt", "--allow-uncertain").exit_code == 1
    assert gate(folder, "--allow-uncertain").output.count("size") == 1  # the recipe's limits still hold


def test_a_stored_report_is_a_limit_as_the_issue_writes_it(folder: Path, tmp_path: Path) -> None:
    stored = tmp_path / "main.json"
    stored.write_text(example_report(tiers=(example_row("mcu", size_bytes=18_000),)).to_json())
    command = [folder / "report.json", "--baseline", stored, "--max-regression", "size=2%", "accuracy=0.3pt"]
    done = gate(*command)
    assert done.exit_code == 0
    assert "worse by 213 B (1.2 %), allowed at most 360 B (2 %)" in done.stdout
    assert done.stdout.count("accuracy change") == 3
    tight = gate(folder, "--baseline", stored, "--max-regression", "size=1%,accuracy=0.3pt")
    assert tight.exit_code == 1
    assert "FAIL  mcu     size change" in tight.stdout


def test_several_forms_at_once(folder: Path, tmp_path: Path) -> None:
    done = gate(
        folder,
        "--max-size",
        "mcu=1KB",
        "--format",
        f"junit={tmp_path / 'g.xml'}",
        "--format",
        f"json={tmp_path / 'g.json'}",
    )
    assert done.exit_code == 1
    assert "FAIL" in done.stdout
    assert (tmp_path / "g.xml").read_text().startswith("<?xml")
    assert json.loads((tmp_path / "g.json").read_text())["ok"] is False
    assert gate(folder, "--format", "markdown").stdout.startswith("<!-- edgeopt-gate -->")


def test_on_github_the_job_gets_a_summary(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    summary = tmp_path / "summary.md"
    summary.write_text("what an earlier step wrote\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    done = gate(folder, "--max-size", "mcu=1KB", "--format", "github")
    assert done.stdout.startswith("::error file=")
    assert summary.read_text().startswith("what an earlier step wrote\n")
    assert "1 of 4 checks failed" in summary.read_text()


def test_history_and_badges_are_written_whatever_the_verdict(folder: Path, tmp_path: Path) -> None:
    history, badge = tmp_path / "history.jsonl", tmp_path / "badge.svg"
    for bound in ("1KB", "1MB"):
        gate(
            folder, "--max-size", bound, "--history", history, "--badge", badge, "--badge", f"mcu={tmp_path / 'm.svg'}"
        )
    lines = [json.loads(line) for line in history.read_text().splitlines()]
    assert [line["ok"] for line in lines] == [False, True]
    assert lines[0]["tiers"]["mcu"]["size_bytes"] == 18_213
    assert "gate: passing" in badge.read_text()
    assert "mcu: 18.2 KB" in (tmp_path / "m.svg").read_text()
    shown = CliRunner().invoke(app, ["report", "--history", str(history)])
    assert shown.exit_code == 0
    assert "18.2 KB" in shown.output
    page = CliRunner().invoke(app, ["report", "--history", str(history), "--format", "html"])
    assert page.output.startswith("<!doctype html>")
    for arguments in (
        [str(folder), "--history", str(history)],
        [],
        ["--history", str(history), "--format", "markdown"],
    ):
        assert CliRunner().invoke(app, ["report", *arguments]).exit_code == 2


def test_several_files_in_one_call(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.json"
    other.write_text(example_report(tiers=(example_row("mcu", size_bytes=50_000),), name="other").to_json())
    done = gate(folder, other, "--max-size", "mcu=20KB", "--report-only")
    assert done.exit_code == 1
    assert done.stderr.startswith(f"edgeopt: {other}: 1 of 2 checks failed")


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
        (["--max-lint", "0"], "--tier jetson"),
        (["--max-size", "1KB", "--history", "h.jsonl"], "report.json"),
        (["--max-size", "1KB", "--baseline", "b.json", "--max-regression", "size=1%"], "edgeopt compare"),
    ):
        done = gate(path, *arguments)
        assert done.exit_code == 2
        assert says in done.stderr
    assert gate(path, "--tier", "jetson", "--max-lint", "0", "--operators", "Relu").exit_code == 0
    assert gate(path, "--operators", "Conv").exit_code == 1
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


def test_a_verdict_is_one_line_in_a_pipe_and_wraps_where_columns_says_so(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    whole = gate(folder, "--max-drop", "mcu=1pt", "--report-only").stdout
    assert all(line[:4] in ("pass", "FAIL") for line in whole.splitlines())
    monkeypatch.setenv("COLUMNS", "60")
    wrapped = gate(folder, "--max-drop", "mcu=1pt", "--report-only").stdout
    assert max(map(len, wrapped.splitlines())) <= 60
    assert wrapped.split() == whole.split()
