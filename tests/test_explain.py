"""`edgeopt explain`: every key is told, and its example is one that can be used."""

from __future__ import annotations

import pytest
import yaml

from edgeopt.errors import UsageError
from edgeopt.explain import every_key, example, find_keys
from edgeopt.recipe import Recipe
from edgeopt.tiers import Device, Tier, load_device

BESIDE = {"distill": {"student": "edgeopt:separable"}, "prune": {"target": {"params": "-10%"}}}
"""What a stage cannot do without, where its fields do not say so."""


@pytest.mark.parametrize("name", [name for name in every_key() if name.split(".")[0] not in ("tier", "device")])
def test_every_example_is_a_piece_of_a_recipe(name: str) -> None:
    written = yaml.safe_load(example(find_keys(name)[0]))
    for stage in written.get("stages", []):
        if not {"teacher", "student"} & set(stage):
            stage.update({key: value for key, value in BESIDE.get(stage["kind"], {}).items() if key not in stage})
    content = {"model": "edgeopt:residual"} | written
    if name == "tiers":
        content["tiers"] = ["mcu"]  # the example says text
    Recipe.model_validate(content)


@pytest.mark.parametrize("name", [name for name in every_key() if name.startswith("tier.")])
def test_every_example_is_a_piece_of_a_tier(name: str) -> None:
    plain = {"name": "x", "description": "x", "precisions": ["int8"]}
    Tier.model_validate(plain | yaml.safe_load(example(find_keys(name)[0])))


@pytest.mark.parametrize("name", [name for name in every_key() if name.startswith("device.")])
def test_every_key_of_a_device_has_an_example(name: str) -> None:
    written = yaml.safe_load(example(find_keys(name)[0]))
    assert set(written) <= set(Device.model_fields)
    assert load_device("stm32h743").model_dump().keys() >= written.keys()


def test_every_key_of_a_stage_or_a_limit_is_described() -> None:
    silent = [
        name for name in every_key() if name.startswith(("stages.", "gate.")) and not find_keys(name)[0].description
    ]
    assert silent == []


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("quantize.preset", "stages.quantize.preset"),
        ("stages[1].prune.target", "stages.prune.target"),
        ("gate.mcu.drop", "gate.drop"),
        ("quantize.calibrator.percentile", "stages.quantize.calibrator.percentile"),
        ("max_bytes", "tier.max_bytes"),
        ("data.limit", "data.limit"),
    ],
)
def test_a_key_is_found_by_its_end(text: str, name: str) -> None:
    assert find_keys(text)[0].name == name


def test_what_is_told_of_a_key() -> None:
    preset = find_keys("quantize.preset")[0]
    assert preset.type == "fast, balanced or best"
    assert preset.default == "balanced"
    epochs = find_keys("train.fit.epochs")[0]
    assert epochs.type == "a whole number, at least 1"
    assert epochs.default == "30"
    assert "arXiv:2004.09602" in find_keys("calibrator.percentile")[0].description
    assert find_keys("prune.target")[0].default == "required"
    assert len(find_keys("epochs")) >= 4


@pytest.mark.parametrize(("text", "near"), [("gate.dorp", "gate.drop"), ("quantize.presett", "preset"), ("", "stages")])
def test_an_unknown_key_names_the_nearest(text: str, near: str) -> None:
    with pytest.raises(UsageError, match=near):
        find_keys(text)
