"""The command line as a stranger meets it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from edgeopt.cli import COMMANDS

HEAVY = ("torch", "onnx", "onnxruntime", "numpy", "pydantic", "lightning_fabric")


def edgeopt(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "edgeopt", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=cwd,
        check=False,
    )


def modules_after(code: str) -> set[str]:
    """Which of the heavy packages `code` leaves loaded in a fresh interpreter."""
    program = f"{code}\nimport sys\nprint(*[name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


def test_help_names_every_command_and_loads_nothing_heavy() -> None:
    shown = edgeopt("--help")
    assert shown.returncode == 0
    for name in COMMANDS:
        assert name in shown.stdout
    code = "import edgeopt.cli as c\ntry: c.app(['--help'])\nexcept SystemExit: pass"
    assert modules_after(code) == set()


@pytest.mark.parametrize("module", ["edgeopt.gate", "edgeopt.report", "edgeopt.cli.gate", "edgeopt.cli.report"])
def test_gate_and_report_load_neither_torch_nor_onnx(module: str) -> None:
    assert modules_after(f"import {module}") <= {"pydantic"}


def test_recipes_are_checked_without_torch() -> None:
    assert "torch" not in modules_after("import edgeopt.recipe")


@pytest.mark.parametrize("name", list(COMMANDS))
def test_every_command_has_help(name: str) -> None:
    shown = edgeopt(name, "--help")
    assert shown.returncode == 0, shown.stderr
    assert "Usage" in shown.stdout


def test_flags_are_read_off_the_fields_of_the_stage() -> None:
    shown = edgeopt("quantize", "--help").stdout
    for flag in ("--calibrator", "--samples", "--data", "--tier", "--set"):
        assert flag in shown


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["quantize", "missing.onnx", "--data", "digits"], "missing.onnx: no such file"),
        (["quantize", "torchvision:resnet1", "--data", "digits"], "torchvision has no model 'resnet1'"),
        (["run", "missing.yaml"], "missing.yaml: no such recipe"),
        (["tiers", "esp"], "there is no tier 'esp'"),
        (["inspect", "model.h5"], "model.h5: is no model that edgeopt knows"),
        (["inspect", "weights.pt"], "holds weights without their network"),
        (["gate", "missing.json", "--max-size", "1KB"], "missing.json"),
    ],
)
def test_a_users_mistake_is_one_sentence_and_exit_code_2(arguments: list[str], sentence: str, tmp_path: Path) -> None:
    done = edgeopt(*arguments, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.glob("**/*.onnx")) == []


def test_doctor_and_tiers_speak_json() -> None:
    assert json.loads(edgeopt("doctor", "--json").stdout)["packages"]["torch"] != "missing"
    assert {tier["name"] for tier in json.loads(edgeopt("tiers", "--json").stdout)} >= {
        "mcu",
        "jetson",
        "gpu",
    }


def test_piped_output_has_no_control_characters() -> None:
    assert "\x1b" not in edgeopt("tiers").stdout + edgeopt("--help").stdout
