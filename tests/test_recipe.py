"""Recipes: read strictly, and wrong ones named by file, line and key."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from edgeopt.errors import UsageError
from edgeopt.recipe import list_recipes, load_recipe, read_layers, recipe_schema

RECIPES = Path(__file__).parents[1] / "recipes"

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


DERIVED = "extends: recipe.yaml\nstages:\n  - kind: quantize\n    samples: 8\ngate:\n  mcu: {drop: 2pt}\n"


def derive(folder: Path, text: str = DERIVED) -> Path:
    """`derived.yaml`, beside the recipe that it extends."""
    write(folder, GOOD)
    path = folder / "derived.yaml"
    path.write_text(text)
    return path


def test_a_recipe_extends_another_mappings_merge_and_lists_are_replaced(tmp_path: Path) -> None:
    derived = load_recipe(derive(tmp_path))
    assert derived.name == "derived"
    assert derived.model == load_recipe(tmp_path / "recipe.yaml").model
    assert [stage.samples for stage in derived.stages] == [8]
    assert (derived.gate["mcu"].size, derived.gate["mcu"].drop) == (20_000, 2.0)


def test_the_hash_is_that_of_the_result(tmp_path: Path) -> None:
    derived = load_recipe(derive(tmp_path))
    whole = tmp_path / "whole.yaml"
    whole.write_text(
        GOOD.replace("drop: 1pt", "drop: 2pt").replace("calibrator: {kind: percentile, percentile: 99.9}", "samples: 8")
    )
    assert derived.digest() == load_recipe(whole).model_copy(update={"name": "derived"}).digest()
    (tmp_path / "recipe.yaml").write_text(GOOD.replace("width: 8", "width: 9"))
    assert load_recipe(tmp_path / "derived.yaml").digest() != derived.digest()


def test_another_kind_replaces_a_method_whole_and_text_takes_keys(tmp_path: Path) -> None:
    sets: list[tuple[str, Any]] = [("stages.quantize.calibrator", {"kind": "mse"}), ("data.limit", 100)]
    recipe = load_recipe(write(tmp_path, GOOD), sets)
    assert recipe.stages[0].calibrator.kind == "mse"
    assert (recipe.data.source, recipe.data.limit) == ("digits", 100)
    same = load_recipe(write(tmp_path, GOOD), [("stages.0.calibrator.percentile", 98)])
    assert same.stages[0].calibrator.percentile == 98


def test_null_takes_back_the_limits_of_a_tier(tmp_path: Path) -> None:
    path = derive(tmp_path, "extends: recipe.yaml\ntiers: [gpu]\ngate: {mcu: null}\n")
    assert load_recipe(path).gate == {}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("extends: derived.yaml\n", "derived.yaml:1 extends: goes round in a circle: derived.yaml > derived.yaml"),
        ("seed: 1\nextends: none.yaml\n", r"derived.yaml:2 extends: none.yaml: no such recipe"),
        ("extends: [recipe.yaml]\n", "derived.yaml:1 extends: .* is not the name of a recipe"),
        ("extends: recipe.yaml\nseed: -1\n", "derived.yaml:2 seed: -1"),
        ("extends: recipe.yaml\ngate:\n  mcu:\n    sise: 1\n", "derived.yaml:4 gate.mcu.sise: .*'size'"),
    ],
)
def test_what_is_wrong_with_extends_is_named_by_file_and_line(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        load_recipe(derive(tmp_path, text))


def test_an_error_in_the_extended_recipe_names_that_file(tmp_path: Path) -> None:
    path = derive(tmp_path, "extends: recipe.yaml\nseed: 1\n")
    write(tmp_path, GOOD.replace("99.9", "120"))
    with pytest.raises(UsageError, match=r"recipe.yaml:5 stages\[0\].calibrator.percentile"):
        load_recipe(path)


def test_recipes_do_not_extend_one_another_without_end(tmp_path: Path) -> None:
    write(tmp_path, GOOD)
    for number in range(12):
        base = f"r{number - 1}.yaml" if number else "recipe.yaml"
        (tmp_path / f"r{number}.yaml").write_text(f"extends: {base}\n")
    assert load_recipe(tmp_path / "r6.yaml").seed == 0
    with pytest.raises(UsageError, match="more than 8 recipes extend"):
        load_recipe(tmp_path / "r11.yaml")


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("stages.prune.target", "x", "--set stages.prune.target: there is no entry 'prune'; stages has 0 quantize"),
        ("stages.3.samples", 1, "there is no entry '3'; stages has 0 quantize"),
        ("stages.0.sampels", 1, r"--set stages.0.sampels stages\[0\].sampels: .*did you mean 'samples'"),
        ("tiers.0.x", 1, "tiers.0. is 'mcu', which has no key 'x'"),
        ("seed", -1, "--set seed: -1 should be"),
        ("sede", 1, "did you mean 'seed'"),
    ],
)
def test_a_wrong_set_names_the_key_and_what_is_there(tmp_path: Path, key: str, value: Any, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        load_recipe(write(tmp_path, GOOD), [(key, value)])


def test_a_kind_that_stands_twice_is_named_by_position(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD.replace("tiers:", "  - {kind: quantize}\ntiers:"))
    with pytest.raises(UsageError, match="2 entries are of kind 'quantize'; stages has 0 quantize, 1 quantize"):
        load_recipe(path, [("stages.quantize.samples", 1)])
    assert load_recipe(path, [("stages.1.samples", 1)]).stages[1].samples == 1


def test_anchors_and_merge_keys_are_read_and_an_anchor_in_itself_is_refused(tmp_path: Path) -> None:
    text = GOOD.replace("{size: 20KB, drop: 1pt}", "&limits {size: 20KB}\n  all: {<<: *limits, drop: 1pt}")
    recipe = load_recipe(write(tmp_path, text))
    assert recipe.gate["all"].size == recipe.gate["mcu"].size == 20_000
    with pytest.raises(UsageError, match="anchor holds itself"):
        load_recipe(write(tmp_path, "model: &m {source: edgeopt:residual, settings: *m}\n"))


def test_the_schema_that_is_checked_in_is_the_one_of_the_code() -> None:
    """`edgeopt recipe schema > docs/recipe.schema.json` after a change."""
    checked_in = Path(__file__).parents[1] / "docs" / "recipe.schema.json"
    assert json.loads(checked_in.read_text()) == recipe_schema()


@pytest.mark.parametrize("file", sorted(RECIPES.glob("*.yaml")), ids=lambda file: file.stem)
def test_shipped_recipes_hold_by_the_schema_and_point_editors_to_it(file: Path) -> None:
    text = file.read_text()
    jsonschema.validate(yaml.safe_load(text), recipe_schema(), cls=jsonschema.Draft202012Validator)
    pointer = text.splitlines()[0].removeprefix("# yaml-language-server: $schema=")
    assert (file.parent / pointer).is_file()


@pytest.mark.parametrize(
    ("old", "new"), [("calibrator:", "calibratr:"), ("kind: quantize", "kind: quantise"), ("model:", "modle:")]
)
def test_the_schema_refuses_what_the_reader_refuses(old: str, new: str) -> None:
    jsonschema.validate(yaml.safe_load(GOOD), recipe_schema())
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(yaml.safe_load(GOOD.replace(old, new)), recipe_schema())


ALIASES = "".join(f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in pairwise("abcdefghi"))
MERGES = "".join(f"{new}: &{new} {{<<: [{', '.join([f'*{old}'] * 9)}]}}\n" for old, new in pairwise("abcdefghi"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"a: &a [x]\n{ALIASES}", "aliases make more than 100,000 values"),
        ("<<: &x {<<: *x}\nmodel: edgeopt:residual\n", "holds itself"),
        (f"model: {'[' * 20_000}\n", "nested too deep"),
    ],
)
def test_yaml_that_would_fill_the_memory_is_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "bomb.yaml").write_text(text)
    with pytest.raises(UsageError, match=said):
        load_recipe(tmp_path / "bomb.yaml")


def test_merges_of_merges_do_not_pile_up(tmp_path: Path) -> None:
    (tmp_path / "merge.yaml").write_text(f"a: &a {{x: 1}}\n{MERGES}")
    content = read_layers(tmp_path / "merge.yaml").plain()
    assert content["i"] == {"x": 1}
