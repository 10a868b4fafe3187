"""`edgeopt verify`: what it counts, what it notices, and how it ends."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner, Result

from edgeopt.cli import app
from edgeopt.errors import StageFailed, UsageError
from edgeopt.mcu import Compiled, compile_model
from edgeopt.mcu.estimate import Work, work_of
from edgeopt.mcu.reference import Reference
from edgeopt.mcu.verify import TARGETS, totals, verify
from edgeopt.model.load import read_onnx
from edgeopt.report import read_report, write_report
from edgeopt.tiers import load_device

DIGITS = Path(__file__).parents[2] / "models" / "digits"
MODEL = DIGITS / "mcu" / "model.onnx"
CORES = shutil.which("arm-none-eabi-gcc") and shutil.which("qemu-system-arm")
needs_cores = pytest.mark.skipif(
    not CORES, reason="needs gcc-arm-none-eabi, libnewlib-arm-none-eabi and qemu-system-arm"
)
needs_gcc = pytest.mark.skipif(not shutil.which("gcc"), reason="needs gcc")


def run(*words: object) -> Result:
    return CliRunner().invoke(app, ["verify", *map(str, words)])


def facts(*words: object) -> dict[str, Any]:
    found = run(*words, "--json")
    assert found.exit_code == 0, found.output
    return json.loads(found.stdout)


@pytest.fixture(scope="module")
def compiled() -> Compiled:
    return compile_model(read_onnx(MODEL))


@pytest.fixture(scope="module")
def samples(compiled: Compiled) -> tuple[np.ndarray, np.ndarray]:
    reference = Reference(read_onnx(MODEL), compiled.program)
    inputs = reference.noise(4)
    return inputs, reference.run(inputs)


@pytest.mark.parametrize("target", ["host", pytest.param("cortex-m4", marks=needs_cores)])
def test_every_value_that_differs_is_counted(target: str, compiled: Compiled, samples: tuple[np.ndarray, ...]) -> None:
    inputs, expected = samples
    changed = expected.copy()
    changed[1, :3] += 1
    changed[3, 0] += 1
    assert verify(compiled, inputs, expected, target).mismatches == 0
    found = verify(compiled, inputs, changed, target)
    assert (found.mismatches, found.wrong_samples, found.samples) == (4, 2, 4)


@needs_gcc
def test_a_program_whose_results_are_one_level_off_is_found_out(
    compiled: Compiled, samples: tuple[np.ndarray, ...]
) -> None:
    text = compiled.files["model.c"].replace("int model_run(", "int right_run(")
    text += (
        "int model_run(const int8_t *input, int8_t *output)\n"
        "{ int code = right_run(input, output); output[0] = (int8_t)(output[0] ^ 1); return code; }\n"
    )
    broken = replace(compiled, files=compiled.files | {"model.c": text})
    assert verify(broken, *samples, "host").mismatches == len(samples[0])


@needs_cores
def test_what_a_core_run_counts_adds_up_and_is_the_same_again(
    compiled: Compiled, samples: tuple[np.ndarray, ...]
) -> None:
    first, second = (verify(compiled, *samples, "cortex-m4") for _ in range(2))
    assert first.run is not None
    assert second.run is not None
    assert (first.instructions, first.flash_bytes, first.ram_bytes) == (
        second.instructions,
        second.flash_bytes,
        second.ram_bytes,
    )
    assert first.flash_bytes == first.run.code_bytes + first.run.constant_bytes
    assert first.ram_bytes == first.run.static_bytes + first.run.stack_bytes
    weights = sum(getattr(op, "weights", np.empty(0)).size for op in compiled.program.ops)
    assert weights < first.run.constant_bytes < 2 * weights
    assert 0.5 < (first.instructions_per_mac or 0) < 3


@needs_cores
def test_a_dsp_core_takes_fewer_instructions_than_one_without_and_helium_fewer_still() -> None:
    found = facts(MODEL, *(word for core in ("m3", "m4", "m55") for word in ("-t", f"cortex-{core}")), "-n", 2)
    plain, dsp, helium = (own["instructions"] for own in found["targets"])
    assert plain > 2 * dsp > 4 * helium
    assert found["instructions"] == round(plain)
    assert found["flash_bytes"] == max(own["flash_bytes"] for own in found["targets"])


@needs_gcc
def test_the_host_runs_every_test_image() -> None:
    found = facts(MODEL, "--data", "digits")
    assert (found["samples"], found["mismatches"]) == (360, 0)
    assert found["inputs"] == "test images of digits"
    assert {"instructions", "instructions_per_mac", "flash_bytes", "ram_bytes"} <= set(found)
    assert found["instructions"] is None


@needs_gcc
def test_without_data_it_says_that_the_inputs_are_noise() -> None:
    found = run(MODEL, "-n", 2)
    assert found.exit_code == 0
    assert "noise" in found.stdout


@needs_cores
def test_the_table_fits_80_columns_and_names_every_figure() -> None:
    targets = [word for core in TARGETS for word in ("-t", core)]
    found = run(MODEL, "-n", 1, *targets, "--device", "stm32l4r5")
    assert found.exit_code == 0
    table = found.stdout.split("\n\n")[0]
    assert max(map(len, table.splitlines())) <= 80
    for name in ("mismatches", "instructions", "per MAC", "code", "constants", "static", "stack"):
        assert name in table
    assert "Cortex-M4 at 120 MHz" in found.stdout
    assert "1.2 to 1.56 cycles each" in found.stdout


@needs_gcc
def test_a_difference_ends_with_exit_code_1(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Reference.run
    monkeypatch.setattr(Reference, "run", lambda self, inputs: right(self, inputs) ^ 1)
    found = run(MODEL, "-n", 1)
    assert found.exit_code == 1
    assert "outputs differ from onnxruntime's: 10 on host" in found.stderr


@needs_cores
def test_a_device_that_is_too_small_ends_with_exit_code_1(tmp_path: Path) -> None:
    small = load_device("stm32l4r5").model_dump(mode="json", exclude={"name"}) | {"ram_bytes": "2KB"}
    file = tmp_path / "small.yaml"
    file.write_text(yaml.safe_dump(small))
    found = run(MODEL, "-n", 1, "--device", file, "--json")
    assert found.exit_code == 1
    assert "does not fit small" in found.stderr
    device = json.loads(found.stdout)["device"]
    assert not device["fits"]
    rate = device["frames_per_second"]
    assert rate["low"] < rate["middle"] < rate["high"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((MODEL, "--target", "cortex-m9"), "choose one of host, cortex-m3"),
        ((MODEL, "--device", "stm32h743", "--target", "cortex-m4"), "--target cortex-m7"),
        ((MODEL, "--device", "z80"), "stm32h743"),
        (("none.onnx",), "none.onnx"),
        (("net.py:factory",), "is no .onnx file"),
    ],
)
def test_a_wrong_request_is_one_sentence_and_exit_code_2(words: tuple[object, ...], says: str) -> None:
    found = run(*words)
    assert found.exit_code == 2
    assert says in found.stderr
    assert "Traceback" not in found.stderr


def test_a_device_whose_target_counts_nothing_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "pc.yaml"
    file.write_text(yaml.safe_dump(load_device("ra8d1").model_dump(mode="json", exclude={"name"}) | {"target": "host"}))
    found = run(MODEL, "--device", file)
    assert found.exit_code == 2
    assert "pc.yaml: target host counts no instructions" in found.stderr


def test_a_float_model_is_refused_in_one_sentence() -> None:
    found = run(DIGITS / "student.onnx")
    assert found.exit_code in (2, 3)
    assert "Traceback" not in found.stderr


@pytest.mark.parametrize(
    ("target", "package"), [("host", "gcc"), ("cortex-m4", "gcc-arm-none-eabi libnewlib-arm-none-eabi qemu-system-arm")]
)
def test_a_missing_compiler_is_named_with_its_debian_packages(
    target: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    found = run(MODEL, "-n", 1, "--target", target)
    assert found.exit_code == 3
    assert f"apt-get install {package}" in found.stderr


def test_no_samples_are_refused(compiled: Compiled) -> None:
    with pytest.raises(UsageError, match="no sample"):
        verify(compiled, np.zeros((0, 64), np.int8), np.zeros((0, 10), np.int8), "host")


@needs_gcc
def test_a_program_that_does_not_compile_is_a_failed_stage(compiled: Compiled, samples: tuple[np.ndarray, ...]) -> None:
    broken = replace(compiled, files=compiled.files | {"model.c": "int model_run(\n"})
    with pytest.raises(StageFailed, match="gcc failed"):
        verify(broken, *samples, "host")


@needs_gcc
def test_figures_go_into_the_reports_row_and_its_gate_is_judged_anew(tmp_path: Path) -> None:
    shutil.copytree(DIGITS, tmp_path / "run")
    report = read_report(tmp_path / "run" / "report.json")
    bare = dict.fromkeys(("ram_bytes", "flash_bytes", "instructions", "mismatches"), None) | {"c_basis": ""}
    first = report.tiers[0].model_copy(update=bare)
    write_report(report.model_copy(update={"tiers": (first, *report.tiers[1:])}), tmp_path / "run")
    assert run(MODEL, "-n", 3, "--report", tmp_path / "run").exit_code == 0
    row, other = read_report(tmp_path / "run" / "report.json").tiers[:2]
    assert (row.tier, row.mismatches, row.instructions) == ("mcu", 0, None)
    assert row.c_basis == "host: 3 inputs of noise, seed 0"
    assert other.mismatches is None
    gate = ["gate", str(tmp_path / "run"), "--max-mismatches", "mcu=0"]
    assert CliRunner().invoke(app, gate).exit_code == 0
    missing = CliRunner().invoke(app, [*gate, "--max-flash", "mcu=100KB"])
    assert missing.exit_code == 1
    assert "edgeopt verify ARTIFACT" in missing.stdout


@needs_gcc
def test_a_host_run_keeps_the_figures_of_a_core_and_what_they_rest_on(tmp_path: Path) -> None:
    shutil.copytree(DIGITS, tmp_path / "run")
    report = read_report(tmp_path / "run" / "report.json")
    measured = {"ram_bytes": 5, "flash_bytes": 7, "mismatches": 9, "c_basis": "cortex-m4: 4 inputs of noise"}
    first = report.tiers[0].model_copy(update=measured)
    write_report(report.model_copy(update={"tiers": (first, *report.tiers[1:])}), tmp_path / "run")
    for _ in range(2):
        assert run(MODEL, "-n", 3, "--report", tmp_path / "run").exit_code == 0
        row = read_report(tmp_path / "run" / "report.json").tiers[0]
        assert (row.ram_bytes, row.flash_bytes, row.mismatches) == (5, 7, 0)
        kept = "; sizes and instructions cortex-m4: 4 inputs of noise"
        assert row.c_basis == "host: 3 inputs of noise, seed 0" + kept


@pytest.mark.slow
@pytest.mark.parametrize("tools", [False, pytest.param(True, marks=needs_cores)])
def test_a_run_measures_its_c_program_or_reports_the_plan(
    tools: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not tools:
        monkeypatch.setenv("PATH", "")
    export = ["export", str(MODEL), "--tier", "mcu", "--out", str(tmp_path)]
    assert CliRunner().invoke(app, export).exit_code == 0
    (row,) = read_report(tmp_path / "report.json").tiers
    peak = max(moment.bytes for moment in row.memory_timeline)
    assert row.ram_bytes is not None
    if tools:
        assert row.c_basis == "cortex-m4: 4 inputs of noise"
        assert row.mismatches == 0
        assert peak < row.ram_bytes < peak + 1_000
        assert (row.flash_bytes or 0) > 10_000
    else:
        assert row.c_basis.startswith("as planned")
        assert row.ram_bytes == peak
        assert (row.flash_bytes, row.instructions, row.mismatches) == (None, None, None)


@needs_gcc
def test_a_report_of_another_model_is_refused(tmp_path: Path) -> None:
    shutil.copytree(DIGITS, tmp_path / "run")
    model = tmp_path / "changed.onnx"
    model.write_bytes(read_onnx(MODEL).with_meta(provenance={"note": "another"}).to_bytes())
    found = run(model, "-n", 1, "--report", tmp_path / "run")
    assert found.exit_code == 2
    assert "has no row for" in found.stderr


def test_work_is_told_apart_by_kind_of_layer(compiled: Compiled) -> None:
    work = work_of(compiled.program)
    classifier = compiled.program.ops[-1]
    assert work == Work(conv=compiled.program.macs - classifier.macs, dense=classifier.macs)


@pytest.mark.slow
@needs_cores
def test_a_mobilenet_v3_under_100_kb_makes_5_frames_a_second_on_both_boards(note: Callable[[str], None]) -> None:
    benchmark = load("mcu_network")
    for found in benchmark.figures(benchmark.artifact()):
        assert found["mismatches"] == 0
        assert found["flash_bytes"] < 100_000
        assert found["ram_bytes"] < 128_000
        assert min(found["frames_per_second"]) >= 5
        note(f"small MobileNetV3 on {found['device']}: {found['frames_per_second']} frames/s")


def load(benchmark: str) -> Any:
    path = Path(__file__).parents[2] / "benchmarks" / f"{benchmark}.py"
    spec = importlib.util.spec_from_file_location(benchmark, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_totals_of_a_host_run_have_no_figures_of_a_core(compiled: Compiled, samples: tuple[np.ndarray, ...]) -> None:
    found = totals([verify(compiled, *samples, "host")])
    assert found == {"mismatches": 0, "instructions": None, "flash_bytes": None, "ram_bytes": None}
