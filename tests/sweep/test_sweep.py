"""Sweeps as they are typed: one after another, on Ray, killed, with a variant that cannot work."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from edgeopt.cli import app

RECIPE = """\
model: {source: edgeopt:residual, settings: {channels: 1, size: 8, width: 4, blocks: [1, 1]}}
data: {source: digits, limit: 400}
stages:
  - {kind: train, fit: {epochs: 1, batch_size: 64}}
  - {kind: quantize, preset: fast, samples: 16}
"""
SAMPLES = ("--vary", "stages.quantize.samples=16,32")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    return tmp_path


def start(folder: Path, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "edgeopt", "sweep", "recipe.yaml", "--out", "out", *words]
    environment = os.environ | {"RAY_worker_niceness": "0"}  # among other tests they would starve
    return subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=hear_ctrl_c,
    )


def hear_ctrl_c() -> None:
    """Whoever started the tests in the background had them ignore it, and what they start too."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def sweep(folder: Path, *words: str) -> tuple[int, str, str]:
    process = start(folder, *words)
    shown, errors = process.communicate(timeout=500)
    return process.returncode, shown, errors


def read(folder: Path, name: str = "sweep.json") -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "out" / name).read_text())
    return found


def wait_for(moment: Path, process: subprocess.Popen[str]) -> None:
    while not moment.exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)


@pytest.mark.slow
def test_a_killed_sweep_goes_on_and_the_stage_that_variants_share_is_made_once(folder: Path) -> None:
    process = start(folder, *SAMPLES, "--jobs", "1")
    first = folder / "out" / "samples=16" / "report.json"
    wait_for(first, process)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    written = first.stat().st_mtime_ns

    code, shown, errors = sweep(folder, *SAMPLES, "--jobs", "1")
    assert code == 0, errors
    assert first.stat().st_mtime_ns == written
    assert "1 finished before" in errors
    assert "done 1/1 samples=32" in errors
    assert len(list((folder / "out" / "stages").glob("01-train-*"))) == 1
    assert len(list((folder / "out" / "stages").glob("*-quantize-*"))) == 2
    found = read(folder)
    assert [row["state"] for row in found["variants"]] == ["finished", "finished"]
    assert found["fronts"]["any"]["size"]
    assert "samples=32" in shown
    report = read(folder, "samples=32/report.json")
    assert report["stages"][1]["reused"]
    assert report["command"] == "edgeopt run recipe.yaml --set stages.quantize.samples=32 --out out/samples=32"


@pytest.mark.slow
def test_on_ray_a_variant_that_fails_is_named_and_the_others_go_on(folder: Path) -> None:
    pytest.importorskip("ray")
    code, shown, errors = sweep(folder, "--vary", "stages.train.fit.lr=0.1,1e30", "--jobs", "2")
    assert code == 3, errors
    assert "1 of 2 variants failed: lr=1e30" in errors
    assert "Traceback" not in errors
    assert "2 variants to make side by side" in errors
    assert "1 variant to measure, one after another" in errors
    finished, failed = read(folder)["variants"]
    assert finished["state"] == "finished"
    assert finished["tiers"]["any"]["latency_ms"] > 0
    assert all(stage["reused"] for stage in read(folder, "lr=0.1/report.json")["stages"])
    assert failed["state"] == "failed"
    assert "finite at epoch 1" in failed["error"]
    assert "lr=1e30" in shown
    assert not list((folder / "out").glob("*/.status*"))


@pytest.mark.slow
def test_ctrl_c_says_what_is_finished_and_how_to_go_on(folder: Path) -> None:
    process = start(folder, *SAMPLES, "--jobs", "1")
    wait_for(folder / "out" / "samples=16" / "log.txt", process)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "out: stopped; 0 of 2 variants are finished; the same command goes on" in errors
    assert "Traceback" not in errors
    assert [row["state"] for row in read(folder)["variants"]] == ["not run", "not run"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ["--vary", "stages.quantize.sample=1"],
            "--vary stages.quantize.sample stages[1].sample: there is no such key; did you",
        ),
        (["--vary", "seed"], "--vary: 'seed' is not KEY=A,B,..."),
        (["--vary", "seed=1,{2"], "--vary seed: '1,{2' are no values"),
        (["--vary", "seed=1", "--vary", "seed=2"], "--vary seed: stands twice; give all its values at once"),
    ],
)
def test_what_is_wrong_is_told_before_anything_runs(
    folder: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], sentence: str
) -> None:
    monkeypatch.chdir(folder)
    done = CliRunner().invoke(app, ["sweep", "recipe.yaml", "--out", "out", *words])
    assert done.exit_code == 2
    assert done.stderr.startswith(f"edgeopt: {sentence}")
    assert not (folder / "out").exists()


def test_without_ray_side_by_side_is_refused_with_the_command_that_installs_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgeopt.errors import UsageError
    from edgeopt.sweep import plan_sweep, sweep

    monkeypatch.setitem(sys.modules, "ray", None)
    plan = plan_sweep(str(folder / "recipe.yaml"), {"stages.quantize.samples": [16, 32]})
    with pytest.raises(UsageError, match=r"pip install 'edgeopt\[ray\]'.*--jobs 1"):
        sweep(plan, folder / "out", jobs=2)


def test_a_dry_run_lists_the_variants_and_writes_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    done = CliRunner().invoke(app, ["sweep", "recipe.yaml", "--out", "out", *SAMPLES, "--dry-run"])
    assert done.exit_code == 0
    assert done.stdout.splitlines()[1:] == ["to run    samples=16", "to run    samples=32"]
    assert not (folder / "out").exists()
