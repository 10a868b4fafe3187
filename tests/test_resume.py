"""`kill -9` at any moment and the same command again: finished stages are reused and the result is the same."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

RECIPE = """\
model: {source: edgeopt:residual, settings: {channels: 1, size: 8, width: 4, blocks: [1, 1]}}
data: digits
stages:
  - {kind: train, fit: {epochs: 3, batch_size: 64}}
  - kind: prune
    target: {params: -20%}
    round_to: 1
    schedule: {kind: iterative, steps: 2}
    finetune: {epochs: 2, batch_size: 64}
  - {kind: quantize, calibrator: {kind: minmax}, samples: 32}
tiers: [mcu, gpu]
"""

ARTIFACTS = ("mcu/model.onnx", "gpu/model.onnx")


def start(recipe: Path, out: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "edgeopt", "run", str(recipe), "--out", str(out)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def finish(recipe: Path, out: Path) -> dict[str, object]:
    process = start(recipe, out)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors.decode()
    report: dict[str, object] = json.loads((out / "report.json").read_text())
    return report


def hashes(out: Path) -> list[str]:
    return [hashlib.sha256((out / name).read_bytes()).hexdigest() for name in ARTIFACTS]


def kill_when(process: subprocess.Popen[bytes], moment: Callable[[], bool]) -> bool:
    """Kill the process as soon as `moment()`; False when it ended before."""
    while process.poll() is None:
        if moment():
            os.kill(process.pid, signal.SIGKILL)
            process.communicate()
            return True
        time.sleep(0.002)
    return False


@pytest.mark.slow
def test_a_killed_run_goes_on_and_ends_the_same(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE)
    undisturbed = tmp_path / "undisturbed"
    finish(recipe, undisturbed)

    out = tmp_path / "killed"
    stages = out / "stages"
    moments: list[Callable[[], bool]] = [
        lambda: any(stages.glob(".scratch-*/*")),  # in the middle of training, after a checkpoint
        lambda: any(stages.glob("01-train-*")),
        lambda: any(stages.glob("02-prune-*")),
        lambda: any(stages.glob(".mcu-export*")) or any(stages.glob("mcu-quantize-*")),
        lambda: (out / "mcu" / "model.onnx").exists(),
    ]
    killed = 0
    for moment in moments:
        killed += kill_when(start(recipe, out), moment)
        for path in stages.glob("[0-9a-z]*"):
            assert (path / "stage.json").exists(), f"{path} is half-written"
            assert (path / "model.onnx").exists(), f"{path} is half-written"
        assert not (out / "report.json").exists() or killed < len(moments)
    assert killed >= 4

    report = finish(recipe, out)
    assert hashes(out) == hashes(undisturbed)
    stages_of_report = report["stages"]
    assert isinstance(stages_of_report, list)
    assert [stage["reused"] for stage in stages_of_report[:3]] == [True, True, True]


@pytest.mark.slow
def test_two_runs_in_one_folder_do_not_mix(tmp_path: Path) -> None:
    from filelock import FileLock

    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE)
    out = tmp_path / "out"
    out.mkdir()
    with FileLock(out / ".lock"):
        process = start(recipe, out)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert b"another run is writing here" in errors
