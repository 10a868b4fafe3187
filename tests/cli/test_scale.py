"""`--devices`, `--nodes`, `--strategy`: every training of a recipe gets them, wherever it stands."""

import pytest
from typer.testing import CliRunner

from edgeopt.cli import app
from edgeopt.cli.scale import as_started, spread
from edgeopt.recipe import load_recipe
from edgeopt.train.settings import Fit

SETS = [("stages.quantize.qat", {"epochs": 1})]


def fits(recipe) -> list[Fit]:
    train, distill, prune, quantize = recipe.stages
    return [train.fit, distill.fit, prune.finetune, quantize.qat]


def test_every_training_gets_what_is_given_and_nothing_else_changes() -> None:
    recipe = load_recipe("digits", SETS)
    changed = spread(recipe, 4, None, "fsdp")
    for before, after in zip(fits(recipe), fits(changed), strict=True):
        assert type(before) is type(after)
        assert after == before.model_copy(update={"devices": 4, "strategy": "fsdp"})
    assert spread(changed, 1, None, "ddp") == recipe
    assert spread(recipe, None, None, None) == recipe
    keys = [(f"stages.{n}.{name}.devices", 4) for n, name in enumerate(("fit", "fit", "finetune", "qat"))]
    strategies = [(key.replace("devices", "strategy"), "fsdp") for key, _ in keys]
    assert changed.digest() == load_recipe("digits", [*SETS, *keys, *strategies]).digest()


def test_under_torchrun_its_processes_count_unless_the_recipe_says(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = load_recipe("digits", SETS)
    assert as_started(recipe) is recipe
    for name, value in {"TORCHELASTIC_RUN_ID": "x", "LOCAL_WORLD_SIZE": "2", "WORLD_SIZE": "6"}.items():
        monkeypatch.setenv(name, value)
    assert {(fit.devices, fit.nodes) for fit in fits(as_started(recipe))} == {(2, 3)}
    said = spread(recipe, 2, None, None)
    assert as_started(said) is said


@pytest.mark.parametrize("command", ["run", "distill", "prune"])
def test_the_commands_that_train_have_the_flags(command: str) -> None:
    shown = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200"}).output
    for flag in ("--devices", "--nodes", "--strategy"):
        assert flag in shown
