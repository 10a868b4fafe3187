"""Recipes: read strictly, and wrong ones named by file, line and key."""

from pathlib import Path

import pytest

from edgeopt.errors import UsageError
from edgeopt.recipe import list_recipes, load_recipe

GOOD = """\
model: {source: edgeopt:residual, settings: {width: 8}}
data: digits
stages:
  - kind: quantize
    calibrator: {kind: percentile, percentile: 99.9}
tiers: [mcu]
gate:
  mcu: {size: 20KB, drop: 1pt}
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(text)
    return path


def test_a_recipe_holds_the_objects_that_do_the_work(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, GOOD))
    assert recipe.name == "recipe"
    assert recipe.stages[0].kind == "quantize"
    assert recipe.stages[0].calibrator.percentile == 99.9
    assert recipe.gate["mcu"].size == 20_000


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("calibrator:", "calibratr:", r"recipe.yaml:5 stages\[0\].calibratr: .*did you mean 'calibrator'"),
        (
            "kind: percentile",
            "kind: percentil",
            r"recipe.yaml:5 stages\[0\].calibrator.kind: 'percentil' is not one of",
        ),
        (
            "kind: quantize",
            "kind: quantise",
            r"recipe.yaml:4 stages\[0\].kind: 'quantise' is not one of .*quantize",
        ),
        ("20KB", "20 stones", r"recipe.yaml:8 gate.mcu.size: .*not a size"),
        ("tiers: [mcu]", "tiers: [mcu, esp]", "there is no tier 'esp'; choose one of"),
        ("  mcu: {size", "  gpu: {size", "gate has limits for 'gpu'"),
        ("99.9", "120", r"recipe.yaml:5 stages\[0\].calibrator.percentile: .*less than"),
        ("data: digits", "data: digits\ndata: other", "recipe.yaml:3: key 'data' stands twice"),
        ("stages:", "stages: [", "recipe.yaml:.*is not YAML"),
        ("model: {source: edgeopt:residual, settings: {width: 8}}\n", "", "model: is missing"),
    ],
)
def test_a_wrong_recipe_is_named_by_file_line_and_key(tmp_path: Path, old: str, new: str, sentence: str) -> None:
    assert old in GOOD
    with pytest.raises(UsageError, match=sentence):
        load_recipe(write(tmp_path, GOOD.replace(old, new)))


@pytest.mark.parametrize("text", ["", "- a list", "just text", "\x00", "!!python/object/apply:os.system ['true']"])
def test_what_is_no_recipe_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(UsageError, match=r"recipe\.yaml"):
        load_recipe(write(tmp_path, text))


def test_a_recipe_that_is_not_there_names_those_that_ship() -> None:
    with pytest.raises(UsageError, match="digits"):
        load_recipe("no-such-recipe")


@pytest.mark.parametrize("name", list_recipes())
def test_every_shipped_recipe_reads_and_says_what_it_gives(name: str) -> None:
    assert len(load_recipe(name).description) > 20


def test_python_tags_do_not_run_code(tmp_path: Path) -> None:
    target = tmp_path / "made"
    text = f"model: !!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path [{target}]]"
    with pytest.raises(UsageError):
        load_recipe(write(tmp_path, text))
    assert not target.exists()


def test_two_tiers_of_one_name_would_overwrite_each_other(tmp_path: Path) -> None:
    (tmp_path / "mcu.yaml").write_text("description: mine\nprecisions: [int8]\n")
    tiers = f"tiers: [mcu, {tmp_path / 'mcu.yaml'}]"
    with pytest.raises(UsageError, match="two of its tiers are named 'mcu'"):
        load_recipe(write(tmp_path, GOOD.replace("tiers: [mcu]", tiers)))


@pytest.mark.parametrize("name", ["../../elsewhere", "stages", ".."])
def test_a_tier_is_written_nowhere_but_in_a_folder_of_its_own(tmp_path: Path, name: str) -> None:
    (tmp_path / "mine.yaml").write_text(f"name: {name}\ndescription: mine\nprecisions: [int8]\n")
    with pytest.raises(UsageError, match="cannot be the name of its folder"):
        load_recipe(write(tmp_path, f"model: edgeopt:residual\ntiers: [{tmp_path / 'mine.yaml'}]\n"))


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("tiers: mcu", "tiers: 'mcu' is not a list"),
        ("stages: {kind: prune}", "stages: a mapping is not a list"),
        ("seed: -1", "seed: -1 should be greater than or equal to 0"),
    ],
)
def test_a_wrong_value_is_shown_and_explained_without_python_words(tmp_path: Path, line: str, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        load_recipe(write(tmp_path, f"model: edgeopt:residual\n{line}\n"))
