"""The widest network that fits: as an exhaustive search would find it, in a few trials."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from pydantic import ValidationError

from edgeopt.distill import Distill
from edgeopt.errors import UsageError
from edgeopt.model import Model
from edgeopt.model.profile import profile
from edgeopt.model.reference import ModelRef, Shrink
from edgeopt.model.room import Room
from edgeopt.progress import SILENT
from edgeopt.sizing import fit_width, largest
from edgeopt.stage import StageResult
from edgeopt.tiers import load_tier

SMALL = {"channels": 1, "size": 8, "blocks": [1]}


@pytest.mark.parametrize("step", [1, 4, 16])
@pytest.mark.parametrize("limit", [0.5, 3, 40, 1700, 1e6, 1e9])
@pytest.mark.parametrize("power", [1.0, 2.0, 3.0])
def test_it_is_what_trying_all_would_find(step: int, limit: float, power: float) -> None:
    tried: list[int] = []

    def share(width: int) -> float:
        tried.append(width)
        return (width**power + 10 * math.ceil(width / 7)) / limit

    expected = max((width for width in range(0, 4097, step) if not width or share(width) <= 1), default=0)
    tried.clear()
    assert largest(share, step) == expected
    assert len(tried) == len(set(tried))
    assert len(tried) <= 16


def test_costs_that_grow_with_the_square_take_few_trials() -> None:
    tried: list[int] = []

    def share(width: int) -> float:
        tried.append(width)
        return (300 * width**2 + 400 * width + 5000) / 100_000

    assert largest(share, 4) == 16
    assert len(tried) <= 3


def weighed(model: Model) -> StageResult:
    """As if every MAC were a byte."""
    return StageResult(model, {"size_bytes": profile(model).macs})


def test_the_width_is_chosen_and_told() -> None:
    reference = ModelRef.model_validate({"source": "edgeopt:residual", "settings": SMALL, "fit": {"macs": "100k"}})
    chosen, facts = fit_width(reference, load_tier("any"), weighed, seed=0, progress=SILENT)
    assert chosen.fit is None
    assert chosen.settings == SMALL | {"width": facts["width"]}
    assert profile(chosen.load()).macs == facts["macs"] <= 100_000
    wider = chosen.model_copy(update={"settings": SMALL | {"width": facts["width"] + load_tier("any").width_multiple}})
    assert profile(wider.load()).macs > 100_000
    assert json.loads(json.dumps(facts))["limits"] == {"macs": 100_000}


def test_nothing_that_fits_names_the_smallest() -> None:
    reference = ModelRef.model_validate({"source": "edgeopt:residual", "settings": SMALL, "fit": {"size": "100B"}})
    with pytest.raises(
        UsageError, match=r"the smallest \(width 4\) needs a file of .* KB; the limits are a file of 100 B"
    ):
        fit_width(reference, load_tier("mcu"), weighed, seed=0, progress=SILENT)


def test_a_tier_without_limits_is_refused() -> None:
    reference = ModelRef.model_validate({"source": "edgeopt:residual", "fit": {"tier": "gpu"}})
    with pytest.raises(UsageError, match="gpu has no limits"):
        fit_width(reference, load_tier("gpu"), weighed, seed=0, progress=SILENT)


def test_what_is_said_and_the_tiers_limits_both_hold() -> None:
    tier = load_tier("mcu").model_copy(update={"max_peak_ram_bytes": 64_000})
    assert Room(macs="20M", size="120KB", ram="50KB").limits(tier) == {
        "size": 100_000,
        "ram": 50_000,
        "macs": 20_000_000,
    }


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"settings": {"width": 8}, "fit": {"tier": "mcu"}}, "leave settings.width out"),
        ({"weights": "a.pt", "fit": {"tier": "mcu"}}, "leave `weights` or `fit` out"),
        ({"fit": {}}, "say what it is to fit"),
        ({"fit": {"size": "much"}}, "is not a size"),
    ],
)
def test_contradictions_are_refused(given: dict, match: str) -> None:
    with pytest.raises(ValidationError, match=match):
        ModelRef.model_validate({"source": "edgeopt:residual"} | given)


def test_a_student_is_a_model_or_made_from_the_teacher() -> None:
    shrunk = Distill.model_validate({"student": {"kind": "shrink", "width": 0.25, "init": "random"}})
    assert shrunk.student == Shrink(width=0.25, init="random")
    assert Distill.model_validate_json(shrunk.model_dump_json()) == shrunk
    assert Distill.model_validate({"student": "a.onnx"}).student == ModelRef(source="a.onnx")
    with pytest.raises(ValidationError, match="less than or equal to 1"):
        Distill.model_validate({"student": {"kind": "shrink", "width": 2}})
    with pytest.raises(ValidationError, match="both are"):
        Distill.model_validate({"student": {"kind": "shrink"}, "teacher": "a.onnx"})


RECIPE = """\
model: {source: edgeopt:residual, settings: {channels: 1, size: 8, blocks: [2, 2]}, fit: {tier: mcu, size: 50KB}}
data: digits
stages:
  - {kind: train, fit: {epochs: 2, batch_size: 64}}
  - {kind: distill, student: {kind: shrink, width: 0.5, depth: 0.5}, fit: {epochs: 1, batch_size: 64}}
  - {kind: quantize, calibrator: {kind: minmax}, samples: 32}
tiers: [mcu]
"""


@pytest.mark.slow
def test_a_run_sizes_the_teacher_and_shrinks_the_student(tmp_path: Path) -> None:
    from edgeopt.pipeline import run
    from edgeopt.recipe import load_recipe

    (tmp_path / "recipe.yaml").write_text(RECIPE)
    recipe = load_recipe(tmp_path / "recipe.yaml")
    report = run(recipe, tmp_path / "out")
    load, _, distill = report.stages[:3]
    found = load.facts["fit"]
    assert found["size"] <= 50_000
    assert found["width"] % 4 == 0
    assert found["width"] + 4 in found["tried"]  # and did not fit
    student = distill.facts["student"]
    assert student["blocks_removed"] == ["blocks.3"]
    assert student["params_after"] == distill.facts["student_params"]
    halves = {math.ceil(width / 8) * 4 for width in (found["width"], 2 * found["width"])}  # in multiples of 4
    assert {group["channels_after"] for group in student["groups"]} == halves
    again = run(recipe, tmp_path / "out")
    assert all(stage.reused for stage in again.stages)
