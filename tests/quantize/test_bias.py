"""Bias correction takes back exactly what rounding shifted, and more where channels are few weights each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from arrays import samples_of

from edgeopt.model import Model
from edgeopt.model.runtime import open_session, run
from edgeopt.quantize.bias import BiasCorrection
from edgeopt.quantize.build import Builder, Built, wanted_tensors
from edgeopt.quantize.calibrators import MinMax, Percentile
from edgeopt.quantize.layers import integer_layers, with_layers
from edgeopt.quantize.observe import observe
from edgeopt.quantize.weights import MaxScale
from edgeopt.stage import Context
from edgeopt.tiers import Tier, load_tier

Fixture = Callable[..., Any]


def build(model: Model, x: np.ndarray, tier: Tier, calibrator: Any = None) -> Built:
    calibrator = calibrator or MinMax()
    seen = observe(
        model, wanted_tensors(model, tier), samples_of(x).batches(8), counts=calibrator.needs_counts
    ).histograms
    return Builder(model, tier, seen, calibrator, MaxScale()).build()


def outputs(model: Model, x: np.ndarray) -> np.ndarray:
    return run(open_session(model), x)[0]


def one_layer(net: Any, *, bias: bool = True) -> Model:
    w = net.constant(np.full((4, 3, 1, 1), 0.1, np.float32) * np.arange(1, 5, dtype=np.float32)[:, None, None, None])
    constants = [w, net.constant(np.array([0.5, -0.5, 0.0, 1.0], np.float32))] if bias else [w]
    return net.model(net.add("Conv", "x", *constants, kernel_shape=[1, 1]))  # type: ignore[no-any-return]


def shifted(built: Built, by: int) -> Built:
    """All weights `by` levels too small: as if rounding had always gone down."""
    layer = integer_layers(built.model)[0]
    weight = (layer.weight.astype(int) - by).clip(-127, 127).astype(np.int8)
    return Built(with_layers(built.model, {layer.name: (weight, None)}), built.plan, built.grids, built.histograms)


def test_the_shift_of_a_layer_is_the_one_computed_by_hand(new_net: Fixture) -> None:
    model, tier = one_layer(new_net()), load_tier("any")
    x = np.random.default_rng(0).uniform(1, 2, (32, 3, 16, 16)).astype(np.float32)
    built = shifted(build(model, x, tier), by=6)
    result = BiasCorrection(scales=False).refine(model, built, samples_of(x), Context())
    before, after = (integer_layers(m)[0] for m in (built.model, result.model))
    assert before.bias is not None
    assert after.bias is not None
    grid = next(iter(built.grids.values()))
    rounded = grid.dequantize(grid.quantize(x))
    # E[w x] - E[w_rounded x_rounded], per output channel
    weight = model.weights()[next(n for n, a in model.weights().items() if a.ndim == 4)]
    integers = before.weight.astype(np.float64) * before.weight_scale.reshape(-1, 1, 1, 1)
    shift = weight.reshape(4, 3) @ x.mean(axis=(0, 2, 3)) - integers.reshape(4, 3) @ rounded.mean(axis=(0, 2, 3))
    assert before.bias_scale is not None
    np.testing.assert_allclose((after.bias - before.bias) * before.bias_scale, shift, rtol=0.01)
    np.testing.assert_array_equal(after.weight, before.weight)
    np.testing.assert_array_equal(after.weight_scale, before.weight_scale)


def test_means_of_all_output_channels_are_right_afterwards(new_net: Fixture) -> None:
    model, tier = one_layer(new_net()), load_tier("any")
    x = np.random.default_rng(0).uniform(-1, 2, (32, 3, 16, 16)).astype(np.float32)
    built = shifted(build(model, x, tier), by=6)
    corrected = BiasCorrection(scales=False).refine(model, built, samples_of(x), Context()).model
    errors = [(outputs(m, x) - outputs(model, x)).mean(axis=(0, 2, 3)) for m in (built.model, corrected)]
    step = max(float(grid.scale) for grid in built.grids.values())
    assert np.abs(errors[0]).max() > 1.5 * step
    assert np.abs(errors[1]).max() < 0.1 * step


def test_a_scale_that_is_off_is_found(new_net: Fixture, measure_sqnr: Fixture) -> None:
    model, tier = one_layer(new_net()), load_tier("any")
    x = np.random.default_rng(0).standard_normal((64, 3, 16, 16)).astype(np.float32)
    built = shifted(build(model, x, tier), by=6)  # all weights of a channel are equal: a shift is a scale of 121/127
    truth = outputs(model, x)
    plain, bias, scale = (
        measure_sqnr(truth, outputs(m, x))
        for m in (
            built.model,
            BiasCorrection(scales=False).refine(model, built, samples_of(x), Context()).model,
            BiasCorrection().refine(model, built, samples_of(x), Context()).model,
        )
    )
    assert scale > plain + 8
    assert scale > bias + 8


@pytest.mark.parametrize("tier", ["any", "jetson", "mcu"])
def test_a_depthwise_net_with_clipped_activations_gains(
    tier: str, mobilenet_model: Model, make_images: Fixture, measure_sqnr: Fixture
) -> None:
    x, test, where = make_images(64), make_images(64, seed=5), load_tier(tier)
    model = mobilenet_model
    built = build(model, x, where, Percentile(percentile=97.0))
    corrected = BiasCorrection().refine(model, built, samples_of(x), Context(tier=where))
    truth = outputs(model, test)
    plain, better = (measure_sqnr(truth, outputs(m, test)) for m in (built.model, corrected.model))
    assert better > plain + 1
    assert corrected.facts["layers_corrected"] == len(integer_layers(built.model))


def test_nothing_that_chance_explains_is_corrected(
    resnet_model: Model, make_images: Fixture, measure_sqnr: Fixture
) -> None:
    x, test = make_images(64), make_images(64, seed=5)
    built = build(resnet_model, x, load_tier("any"))
    few = BiasCorrection(images=2).refine(resnet_model, built, samples_of(x), Context()).model
    truth = outputs(resnet_model, test)
    assert measure_sqnr(truth, outputs(few, test)) > measure_sqnr(truth, outputs(built.model, test)) - 0.3


def test_the_nodes_stay_and_the_built_model_is_left_alone(mobilenet_model: Model, make_images: Fixture) -> None:
    x = make_images(16)
    built = build(mobilenet_model, x, load_tier("any"))
    before = built.model.fingerprint()
    corrected = BiasCorrection(images=8).refine(mobilenet_model, built, samples_of(x), Context()).model
    assert built.model.fingerprint() == before
    assert [n.op_type for n in corrected.graph.graph] == [n.op_type for n in built.model.graph.graph]
    assert len(corrected.to_bytes()) < 1.02 * len(built.model.to_bytes())


def test_a_layer_without_a_bias_keeps_none(new_net: Fixture) -> None:
    model = one_layer(new_net(), bias=False)
    x = np.random.default_rng(0).uniform(1, 2, (16, 3, 16, 16)).astype(np.float32)
    corrected = BiasCorrection().refine(model, build(model, x, load_tier("any")), samples_of(x), Context()).model
    assert integer_layers(corrected)[0].bias is None
