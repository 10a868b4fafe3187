"""A student out of a teacher: the widths and the depth asked for, the same inputs and outputs, weights that stay."""

from __future__ import annotations

import json

import numpy as np
import pytest

from edgeopt.errors import UsageError
from edgeopt.model import Model
from edgeopt.model.load import load_model
from edgeopt.model.reference import ModelRef, Shrink
from edgeopt.model.runtime import open_session, run
from edgeopt.prune.shrink import shrink
from edgeopt.stage import Context

SMALL = {"channels": 1, "size": 8, "width": 8, "blocks": (3, 2)}


@pytest.fixture(scope="module")
def teacher() -> Model:
    return load_model("edgeopt:residual", settings=SMALL)


def test_half_of_the_channels_and_of_the_blocks(teacher: Model) -> None:
    before = teacher.fingerprint()
    result = shrink(teacher, Shrink(width=0.5, depth=0.5), Context())
    facts = json.loads(json.dumps(result.facts))
    assert teacher.fingerprint() == before
    assert facts["blocks"] == ["blocks.0", "blocks.1", "blocks.2", "blocks.4"]  # blocks.3 has a projection
    assert facts["blocks_removed"] == ["blocks.1", "blocks.4"]
    assert {(group["channels_before"], group["channels_after"]) for group in facts["groups"]} == {(8, 4), (16, 8)}
    assert facts["params_after"] < facts["params_before"] / 4
    assert [info.shape for info in result.model.outputs] == [info.shape for info in teacher.outputs]
    x = np.random.default_rng(0).standard_normal((5, 1, 8, 8)).astype(np.float32)
    assert run(open_session(result.model), x)[0].shape == (5, 10)
    assert result.model.weights()["stem.0.weight"].shape == (4, 1, 3, 3)


def test_inherited_weights_are_the_teachers(teacher: Model) -> None:
    theirs, ours = (model.weights()["stem.0.weight"] for model in (teacher, shrink(teacher, Shrink(), Context()).model))
    assert all(any(np.array_equal(kernel, other) for other in theirs) for kernel in ours)


def test_random_weights_are_drawn_from_the_seed(teacher: Model) -> None:
    one, again, other = (
        shrink(teacher, Shrink(init="random"), Context(seed=seed)).model.weights() for seed in (1, 1, 2)
    )
    kept = shrink(teacher, Shrink(), Context()).model.weights()
    for name in ("stem.0.weight", "blocks.1.first.0.weight", "classifier.weight"):
        np.testing.assert_array_equal(one[name], again[name])
        assert not np.allclose(one[name], other[name])
        assert not np.allclose(one[name], kept[name])
    kernel = one["blocks.4.first.0.weight"]
    assert kernel.std() == pytest.approx(np.sqrt(2 / (kernel.shape[0] * 9)), rel=0.1)
    assert not one["classifier.bias"].any()
    assert (one["stem.1.running_var"] == 1).all()


def test_nothing_is_taken_out_of_the_whole(teacher: Model) -> None:
    result = shrink(teacher, Shrink(width=1, depth=1), Context())
    assert result.facts["params_after"] == result.facts["params_before"]
    for name, array in result.model.weights().items():
        np.testing.assert_array_equal(array, teacher.weights()[name])


def test_widths_are_multiples_that_the_tiers_like(teacher: Model) -> None:
    groups = shrink(teacher, Shrink(width=0.3), Context(width_multiple=4)).facts["groups"]
    assert {group["channels_after"] for group in groups} == {4, 8}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "removed"),
    [
        ("resnet18", ["layer2.1", "layer4.1"]),
        ("mobilenet_v2", [f"features.{number}.conv" for number in (5, 8, 10, 13, 16)]),
    ],
)
def test_networks_of_torchvision(name: str, removed: list[str]) -> None:
    model = load_model(f"torchvision:{name}", weights="none", settings={"size": 32})
    result = shrink(model, Shrink(width=0.5, depth=0.5), Context())
    assert result.facts["blocks_removed"] == removed
    assert all(group["channels_after"] == -(-group["channels_before"] // 2) for group in result.facts["groups"])
    assert result.facts["params_after"] < 0.35 * result.facts["params_before"]
    assert [info.shape for info in result.model.outputs] == [info.shape for info in model.outputs]


def test_a_reference_that_is_to_be_made_cannot_be_read() -> None:
    with pytest.raises(UsageError, match="shrink` is made by a run"):
        Shrink().load()
    with pytest.raises(UsageError, match="`fit` is made by a run"):
        ModelRef.model_validate({"source": "edgeopt:residual", "fit": {"tier": "mcu"}}).load()
