"""Targets about the file that is shipped, held against that file: pruned, quantized and exported by a whole run."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeopt.pipeline import run
from edgeopt.recipe import load_recipe
from edgeopt.report import Report

TEACHER = Path(__file__).parents[2] / "models" / "digits" / "teacher.onnx"


def ship(folder: Path, target: str, quantize: str = "{kind: quantize, preset: fast}") -> Report:
    """The report of a run on digits for microcontrollers, without any training."""
    recipe = folder / "recipe.yaml"
    recipe.write_text(
        f"model: {TEACHER}\ndata: digits\nstages:\n"
        f"  - {{kind: prune, target: '{target}', finetune: null}}\n  - {quantize}\ntiers: [mcu]\n"
    )
    return run(load_recipe(recipe), folder / "out")


@pytest.mark.slow
def test_the_file_that_is_shipped_is_just_below_what_was_asked_for(tmp_path: Path) -> None:
    """It is int8 and a third of what the pruned float model weighs; the estimate knows neither."""
    report = ship(tmp_path, "size=40KB,ram=6KB")
    row, facts = report.tiers[0], next(stage for stage in report.stages if stage.kind == "prune").facts
    assert (tmp_path / "out" / "mcu" / "model.onnx").stat().st_size == row.size_bytes
    assert 0.97 * 40_000 < row.size_bytes <= 40_000
    assert facts["file_bytes_before"] > 80_000
    arena = max(report.stages[-1].facts["c_code"]["arena_bytes"].values())
    assert arena == facts["ram_bytes_after"] <= 6000 < facts["ram_bytes_before"]


@pytest.mark.slow
def test_a_size_is_sought_anew_when_the_quantization_changes(tmp_path: Path) -> None:
    first = ship(tmp_path, "size=60KB")
    other = ship(tmp_path, "size=60KB", "{kind: quantize, preset: fast, weight_scale: {kind: max}}")
    pruned = [next(stage for stage in report.stages if stage.kind == "prune") for report in (first, other)]
    assert not pruned[1].reused
