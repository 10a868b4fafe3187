"""Which variants a sweep has, what they are called, and that nothing wrong gets as far as running."""

import pytest

from edgeopt.errors import UsageError
from edgeopt.sweep import plan_sweep
from edgeopt.sweep.variants import MOST


def names(varied):
    return [variant.name for variant in plan_sweep("digits", varied).variants]


def test_every_combination_is_a_recipe_with_those_values():
    varied = {"stages.prune.target.params": ["-20%", "-40%"], "stages.train.fit.epochs": [1, 2, 3]}
    plan = plan_sweep("digits", varied, [("seed", 7)])
    assert [variant.name for variant in plan.variants] == [
        f"params={params},epochs={epochs}" for params in ("-20%", "-40%") for epochs in (1, 2, 3)
    ]
    last = plan.variants[-1]
    assert last.recipe.seed == 7
    assert last.recipe.stages[0].fit.epochs == 3
    assert last.values == {"stages.prune.target.params": "-40%", "stages.train.fit.epochs": 3}
    assert last.arguments == (
        *("digits", "--set", "seed=7"),
        *("--set", "stages.prune.target.params=-40%", "--set", "stages.train.fit.epochs=3"),
    )
    assert len({variant.recipe.digest() for variant in plan.variants}) == 6


def test_names_are_as_short_as_tells_them_apart_and_good_for_folders():
    assert names({"stages.train.fit.epochs": [1], "stages.distill.fit.epochs": [2]}) == [
        "train.fit.epochs=1,distill.fit.epochs=2"
    ]
    assert names({"tiers": [["mcu"], ["mcu", "jetson"]]}) == ["tiers=mcu", "tiers=mcu_jetson"]
    assert names({"data": ["digits", "../../images of mine"]})[1] == "data=.._.._images_of_mine"
    alike = names({"data": ["a/b", "a b"]})
    assert len(set(alike)) == 2
    assert all(name.startswith("data=a_b-") for name in alike)
    assert len(names({"description": ["x" * 300]})[0]) <= 100


def test_names_stay_when_values_are_added():
    assert names({"seed": [1, 2, 3]})[:2] == names({"seed": [1, 2]})


@pytest.mark.parametrize(
    ("varied", "sentence"),
    [
        ({"stages.prun.target": [1]}, "--vary stages.prun.target: there is no entry 'prun'; stages has 0 train"),
        ({"stages.train.fit.epoch": [1]}, "--vary stages.train.fit.epoch.*did you mean 'epochs'"),
        ({"stages.train.fit.epochs": [1, 0]}, "--vary stages.train.fit.epochs.*0 should be greater"),
        ({"seed": []}, "--vary seed: has no values"),
        ({"seed": [1, 2, 1]}, "--vary seed: 1 stands twice"),
        ({"seed": list(range(40)), "data.limit": list(range(1, 41))}, f"1,600 variants; {MOST:,} at most"),
    ],
)
def test_a_mistake_is_told_before_anything_runs(varied, sentence):
    with pytest.raises(UsageError, match=sentence):
        plan_sweep("digits", varied)
