"""`edgeopt run --dry-run`: what is there, what is not, and nothing written."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeopt.pipeline import run
from edgeopt.plan import Plan, make_plan
from edgeopt.recipe import Recipe, load_recipe

STUDENT = Path(__file__).parents[1] / "models" / "digits" / "student.onnx"
RECIPE = """\
model: {model}
data: {{source: digits, limit: 200}}
stages:
  - {{kind: prune, target: {{params: -15%}}, round_to: 1, finetune: {{epochs: 2, batch_size: 50}}}}
  - {{kind: quantize, preset: fast, samples: 16}}
tiers: [mcu, gpu]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`recipe.yaml`, and `out/` with what its run left."""
    folder = tmp_path_factory.mktemp("plan")
    (folder / "recipe.yaml").write_text(RECIPE.format(model=STUDENT))
    run(load_recipe(folder / "recipe.yaml"), folder / "out")
    return folder


def states(plan: Plan) -> dict[str, str]:
    return {step.title: step.state for step in plan.steps}


def changed(folder: Path, *sets: tuple[str, object]) -> Recipe:
    return load_recipe(folder / "recipe.yaml", sets)


def test_what_is_done_is_reused_and_costs_nothing(folder: Path) -> None:
    plan = make_plan(changed(folder), folder / "out")
    assert [step.title for step in plan.steps if step.state == "new"] == ["measure"]
    assert all(step.seconds == 0 for step in plan.steps[:-1])


def test_a_changed_stage_is_new_and_so_is_all_behind_it(folder: Path) -> None:
    plan = make_plan(changed(folder, ("stages.prune.finetune.epochs", 6)), folder / "out")
    assert states(plan)["load"] == "reused"
    assert {state for title, state in states(plan).items() if title != "load"} == {"new"}
    later = states(make_plan(changed(folder, ("stages.quantize.samples", 8)), folder / "out"))
    assert later["prune"] == later["export for gpu"] == "reused"
    assert later["quantize for mcu"] == later["export for mcu"] == "new"


def test_seconds_come_from_the_last_such_stage_scaled_to_the_epochs(folder: Path) -> None:
    def seconds(epochs: int) -> float:
        plan = make_plan(changed(folder, ("stages.prune.finetune.epochs", epochs)), folder / "out")
        step = next(step for step in plan.steps if step.title == "prune")
        assert step.basis == "last time"
        return step.seconds

    fixed, each = 2 * seconds(10) - seconds(20), (seconds(20) - seconds(10)) / 10
    assert each > 0
    assert seconds(40) == pytest.approx(fixed + 40 * each, rel=0.01)


def test_in_an_empty_folder_everything_is_new_and_nothing_is_written(folder: Path, tmp_path: Path) -> None:
    plan = make_plan(changed(folder), tmp_path / "nowhere")
    assert set(states(plan).values()) == {"new"}
    assert next(step for step in plan.steps if step.title == "prune").basis == "timed now"
    assert list(tmp_path.iterdir()) == []
    assert plan.seconds > 0
    assert plan.memory_bytes > 100_000_000
    assert any("mcu/model.onnx and its C program" in line for line in plan.writes)


def test_the_settings_are_those_that_were_chosen(folder: Path) -> None:
    steps = {step.title: step for step in make_plan(changed(folder), folder / "out").steps}
    assert steps["quantize for mcu"].settings == {"preset": "fast", "samples": "16"}
    assert steps["prune"].settings["finetune.batch_size"] == "50"
    assert steps["prune"].work == "2 epochs of 200 images"
    assert steps["measure"].work == "5 models, 200 test images"
