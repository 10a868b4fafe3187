"""Equalization computes the same function, and helps where channels are uneven."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from arrays import samples_of

from edgeopt.model import Model
from edgeopt.model.runtime import open_session, run
from edgeopt.quantize.build import Builder, wanted_tensors
from edgeopt.quantize.calibrators import MinMax
from edgeopt.quantize.equalize import CrossLayer
from edgeopt.quantize.observe import observe
from edgeopt.quantize.weights import MaxScale
from edgeopt.stage import Context
from edgeopt.tiers import Tier, load_tier

Fixture = Callable[..., Any]
EAGER = CrossLayer(least_gain=0.01)


def tier(weights: str) -> Tier:
    plain = load_tier("any")
    return plain.model_copy(update={"placement": plain.placement.model_copy(update={"weights": weights})})


def factors(channels: int, seed: int = 0, decades: float = 2.0) -> np.ndarray:
    """Spread over some decades."""
    return 10 ** np.random.default_rng(seed).uniform(-decades, 0, channels)


def depthwise_net(net: Any, activation: Callable[[str], str]) -> Model:
    """1x1 convolution, depthwise, 1x1: an even network in which channels were scaled and scaled back."""
    wide = 24
    first, second = factors(wide), factors(wide, seed=5)
    w = net.random.standard_normal((wide, 3, 1, 1)) * first[:, None, None, None]
    x = activation(conv(net, "x", w, bias=np.zeros(wide)))
    w = net.random.standard_normal((wide, 1, 3, 3)) * (second / first)[:, None, None, None]
    x = activation(conv(net, x, w, bias=0.1 * second, group=wide, pads=[1] * 4))
    return net.model(conv(net, x, net.random.standard_normal((8, wide, 1, 1)) / second[:, None, None]))  # type: ignore[no-any-return]


def conv(net: Any, x: str, weight: np.ndarray, bias: np.ndarray | None = None, **attributes: Any) -> str:
    constants = [net.constant(array.astype(np.float32)) for array in (weight, bias) if array is not None]
    return net.add("Conv", x, *constants, kernel_shape=list(weight.shape[2:]), **attributes)  # type: ignore[no-any-return]


def relu(net: Any) -> Callable[[str], str]:
    return lambda x: net.add("Relu", x)


def quantize(model: Model, x: np.ndarray, where: Tier) -> Model:
    seen = observe(model, wanted_tensors(model, where), samples_of(x).batches(8), counts=False).histograms
    return Builder(model, where, seen, MinMax(), MaxScale()).build().model


def outputs(model: Model, x: np.ndarray) -> np.ndarray:
    return run(open_session(model), x)[0]


@pytest.mark.parametrize("operator", ["Relu", "LeakyRelu", "PRelu", "none"])
@pytest.mark.parametrize("weights", ["per_channel", "per_tensor"])
def test_the_function_stays(
    operator: str, weights: str, new_net: Fixture, make_images: Fixture, measure_sqnr: Fixture
) -> None:
    net = new_net()
    slopes = net.constant(np.linspace(0.1, 0.5, 24, dtype=np.float32).reshape(24, 1, 1)) if operator == "PRelu" else ""
    activation = {
        "PRelu": lambda x: net.add("PRelu", x, slopes),
        "none": lambda x: x,
    }.get(operator, lambda x: net.add(operator, x))
    model = depthwise_net(net, activation)
    result = EAGER.transform(model, samples_of(make_images(8)), Context(tier=tier(weights)))
    assert result.facts["pairs"] == 2
    assert result.facts["pairs_equalized"] > 0
    noise = np.random.default_rng(3).standard_normal((4, 3, 16, 16)).astype(np.float32) * 10
    before, after = outputs(model, noise), outputs(result.model, noise)
    assert np.abs(after - before).max() < 1e-5 * np.abs(before).max()


@pytest.mark.parametrize(("weights", "gain_db"), [("per_tensor", 10), ("per_channel", 10)])
def test_uneven_channels_gain(
    weights: str, gain_db: float, new_net: Fixture, make_images: Fixture, measure_sqnr: Fixture
) -> None:
    net, x, where = new_net(), make_images(32), tier(weights)
    model = depthwise_net(net, relu(net))
    equal = CrossLayer().transform(model, samples_of(x), Context(tier=where)).model
    test = make_images(16, seed=9)
    truth = outputs(model, test)
    plain, better = (measure_sqnr(truth, outputs(quantize(m, x, where), test)) for m in (model, equal))
    assert better > plain + gain_db


def test_even_channels_are_left_alone(new_net: Fixture, make_images: Fixture) -> None:
    net = new_net()
    x = net.add("Relu", net.conv("x", 3, 16))
    model = net.model(net.conv(x, 16, 16))
    result = CrossLayer().transform(model, samples_of(make_images(8)), Context())
    assert result.facts == {"pairs": 1, "pairs_equalized": 0, "expected_gain_db": 0.0}


def test_a_clip_keeps_its_channels_and_the_others_stay_below_it(new_net: Fixture, make_images: Fixture) -> None:
    net = new_net()
    model = depthwise_net(net, net.relu6)
    x = make_images(16)
    result = EAGER.transform(model, samples_of(x), Context())
    assert result.facts["pairs_equalized"] > 0
    before, after = outputs(model, 1.4 * x), outputs(result.model, 1.4 * x)  # within HEADROOM of what was seen
    assert np.abs(after - before).max() < 1e-5 * np.abs(before).max()


def test_a_tensor_with_two_readers_is_no_pair(new_net: Fixture, make_images: Fixture) -> None:
    net = new_net()
    x = net.add("Relu", net.conv("x", 3, 8))
    model = net.model(net.add("Add", net.conv(x, 8, 8), x))
    result = EAGER.transform(model, samples_of(make_images(8)), Context())
    assert result.facts["pairs"] == 0
    assert result.model.fingerprint() == model.fingerprint()


def test_pools_and_a_gemm_belong_to_a_pair(new_net: Fixture, make_images: Fixture) -> None:
    net = new_net()
    w = net.random.standard_normal((12, 3, 3, 3)) * factors(12)[:, None, None, None]
    x = net.add("Relu", conv(net, "x", w))
    model = net.model(net.head(net.add("MaxPool", x, kernel_shape=[2, 2]), 12))
    result = EAGER.transform(model, samples_of(make_images(8)), Context())
    assert result.facts["pairs_equalized"] == 1
    x = make_images(4, seed=2)
    np.testing.assert_allclose(outputs(result.model, x), outputs(model, x), rtol=1e-4, atol=1e-5)


def test_the_model_that_was_given_stays_as_it_was(new_net: Fixture, make_images: Fixture) -> None:
    net = new_net()
    model = depthwise_net(net, relu(net))
    before = model.fingerprint()
    EAGER.transform(model, samples_of(make_images(8)), Context())
    assert model.fingerprint() == before
