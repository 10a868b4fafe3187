"""`edgeopt recipe`: new, show, check, schema."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from terminal import on_terminal
from typer.testing import CliRunner, Result

from edgeopt.cli import app
from edgeopt.recipe import load_recipe
from edgeopt.starter import GOALS

STUDENT = str(Path(__file__).parents[2] / "models" / "digits" / "student.onnx")


def recipe(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["recipe", *map(str, arguments)])


@pytest.mark.parametrize("goal", GOALS)
@pytest.mark.parametrize("tiers", [["mcu"], ["gpu"], ["mcu", "jetson", "gpu"]])
def test_what_new_writes_is_read_and_fits_the_tiers(goal: str, tiers: list[str], tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    flags = [part for name in tiers for part in ("--tier", name)]
    done = recipe("new", "--model", STUDENT, "--data", "digits", *flags, "--goal", goal, "--out", file)
    assert done.exit_code == 0, done.output
    made = load_recipe(file)
    assert made.tiers == tuple(tiers)
    assert [stage.kind for stage in made.stages].count("quantize") == (tiers != ["gpu"])
    assert file.read_text().count("#") > 4


def test_it_never_writes_over_a_file_unless_forced(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("mine")
    flags = ("--model", STUDENT, "--data", "digits", "--out", file)
    refused = recipe("new", *flags)
    assert refused.exit_code == 2
    assert "exists already" in refused.stderr
    assert file.read_text() == "mine"
    assert recipe("new", *flags, "--force").exit_code == 0
    assert load_recipe(file).model.source == STUDENT


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--data", "digits"], "give --model and --data"),
        (["--model", "none.onnx", "--data", "digits"], "none.onnx: no such file"),
        (["--model", STUDENT, "--data", "nowhere"], "nowhere: there is no such folder"),
        (["--model", STUDENT, "--data", "digits", "--goal", "magic"], "'magic' is no goal; choose one of int8"),
        (["--model", STUDENT, "--data", "digits", "--tier", "moon"], "there is no tier 'moon'"),
    ],
)
def test_a_mistake_is_one_sentence_and_writes_nothing(flags: list[str], sentence: str, tmp_path: Path) -> None:
    done = recipe("new", *flags, "--out", tmp_path / "mine.yaml")
    assert done.exit_code == 2
    assert sentence in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_on_a_terminal_it_asks_for_what_is_not_given(tmp_path: Path) -> None:
    code, shown = on_terminal("recipe", "new", cwd=tmp_path, answers="\n\nmcu, gpu\n\nmine.yaml\n")
    assert code == 0, shown
    for question in (
        "Model [edgeopt:residual]",
        "Images [digits]",
        "Tiers [mcu]",
        "Goal [train]",
        "File [recipe.yaml]",
    ):
        assert question in shown
    made = load_recipe(tmp_path / "mine.yaml")
    assert made.tiers == ("mcu", "gpu")
    assert [stage.kind for stage in made.stages] == ["train", "quantize"]


def test_editors_are_pointed_to_the_schema(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    assert recipe("new", "--model", STUDENT, "--data", "digits", "--out", file, "--schema").exit_code == 0
    assert file.read_text().startswith("# yaml-language-server: $schema=recipe.schema.json\n")
    assert (tmp_path / "recipe.schema.json").read_text() == recipe("schema").stdout
    assert json.loads(recipe("schema").stdout)["properties"]["stages"]


def test_merged_shows_what_is_read(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("extends: digits\ntiers: [mcu]\n")
    shown = recipe("show", tmp_path / "mine.yaml", "--merged", "--set", "stages.train.fit.epochs=3")
    assert shown.exit_code == 0, shown.output
    assert "extends" not in shown.stdout
    assert re.search(r"fit:\n +epochs: 3\n", shown.stdout)
    (tmp_path / "again.yaml").write_text(shown.stdout)
    again = load_recipe(tmp_path / "again.yaml")
    assert again.stages == load_recipe(tmp_path / "mine.yaml", [("stages.train.fit.epochs", 3)]).stages
    assert "edgeopt:residual > train > distill" in recipe("check", tmp_path / "mine.yaml").stdout


def test_a_new_recipe_quotes_what_yaml_would_misread(tmp_path: Path) -> None:
    from edgeopt.starter import write_recipe

    (tmp_path / "x: y#.onnx").touch()
    model = str(tmp_path / "x: y#.onnx")
    text = write_recipe(tmp_path / "new.yaml", model, "digits", ["mcu"], "int8")
    (tmp_path / "new.yaml").write_text(text)
    assert load_recipe(tmp_path / "new.yaml").model.source == model
