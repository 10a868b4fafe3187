"""The edited graph computes what the float graph did, up to rounding, whatever its constants look like."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from edgeopt.model import Model
from edgeopt.model.runtime import open_session, run
from edgeopt.quantize import MinMax, Quantize
from edgeopt.quantize.verify import fused_operators
from edgeopt.stage import Context
from edgeopt.tiers import load_tier

Fixture = Callable[..., Any]


def outputs(model: Model, x: np.ndarray) -> list[np.ndarray]:
    return run(open_session(model), x)


@pytest.fixture
def quantized(unsimplified: None, make_images: Fixture, make_context: Fixture) -> Fixture:
    """Quantize with minmax for a tier."""

    def apply(model: Model, tier: str = "any") -> Model:
        _, *shape = model.inputs[0].shape
        context: Context = make_context(make_images(16, shape), tier=load_tier(tier))
        return Quantize(calibrator=MinMax()).apply(model, context).model

    return apply


def test_a_weight_that_two_layers_share_is_stored_once(
    new_net: Fixture, quantized: Fixture, make_images: Fixture, measure_sqnr: Fixture
) -> None:
    net = new_net()
    w, sizes = net.weight(4, 3, 3, 3), {"kernel_shape": [3, 3], "pads": [1] * 4}
    first = net.add("Conv", "x", w, **sizes)
    second = net.add("Conv", net.add("MaxPool", "x", kernel_shape=[3, 3], pads=[1] * 4), w, **sizes)
    model = net.model(net.add("Add", first, second))
    found = quantized(model)
    assert sum(array.shape == (4, 3, 3, 3) for array in found.weights().values()) == 1
    x = make_images(4)
    assert measure_sqnr(outputs(model, x)[0], outputs(found, x)[0]) > 30


def test_a_bias_that_two_layers_share_gets_each_layers_scale(
    new_net: Fixture, quantized: Fixture, make_images: Fixture, measure_sqnr: Fixture
) -> None:
    net = new_net()
    b, sizes = net.bias(4), {"kernel_shape": [1, 1]}
    first = net.add("Conv", "x", net.weight(4, 3, 1, 1), b, **sizes)
    model = net.model(net.add("Conv", first, net.weight(4, 4, 1, 1), b, **sizes))
    found = quantized(model)
    biases = [array for array in found.weights().values() if array.dtype == np.int32]
    assert len(biases) == 2
    assert not np.array_equal(*biases)
    x = make_images(4)
    assert measure_sqnr(outputs(model, x)[0], outputs(found, x)[0]) > 30


@pytest.mark.parametrize("tier", ["any", "mcu", "jetson"])
@pytest.mark.parametrize("trans_b", [0, 1])
@pytest.mark.parametrize("bias_shape", [(5,), (1, 5), (1,), ()], ids=str)
def test_gemm_of_every_form(
    trans_b: int,
    tier: str,
    bias_shape: tuple[int, ...],
    new_net: Fixture,
    quantized: Fixture,
    make_images: Fixture,
    measure_sqnr: Fixture,
) -> None:
    net = new_net(size=8)
    w = net.weight(5, 192) if trans_b else net.weight(192, 5)
    b = net.constant(np.full(bias_shape, 3, np.float32))
    model = net.model(net.add("Gemm", net.add("Flatten", "x"), w, b, transB=trans_b, alpha=0.25, beta=-2.0))
    found = quantized(model, tier)
    x = make_images(4, (3, 8, 8))[: 1 if tier == "mcu" else 4]
    assert measure_sqnr(outputs(model, x)[0], outputs(found, x)[0]) > 30
    if tier != "jetson":
        assert "QGemm" in [operator for _, operator in fused_operators(found, load_tier(tier).session)]


def test_a_bias_of_another_form_keeps_the_layer_in_float(
    new_net: Fixture, quantized: Fixture, make_images: Fixture
) -> None:
    net = new_net(size=4)
    net.shape = [4, 3, 4, 4]
    b = net.constant(np.arange(4, dtype=np.float32).reshape(4, 1))  # one value for each row, not for each channel
    model = net.model(net.add("Gemm", net.add("Flatten", "x"), net.weight(48, 4), b))
    assert "QuantizeLinear" not in {node.op_type for node in quantized(model).graph.graph}


def test_an_output_that_is_also_read_inside_keeps_its_name(
    new_net: Fixture, quantized: Fixture, make_images: Fixture, measure_sqnr: Fixture
) -> None:
    net = new_net()
    features = net.add("Relu", net.conv("x", 3, 8))
    model = net.model(features, net.conv(features, 8, 4))
    found = quantized(model, "mcu")
    assert [info.name for info in found.outputs] == [info.name for info in model.outputs]
    x = make_images(1)
    for expected, value in zip(outputs(model, x), outputs(found, x), strict=True):
        assert measure_sqnr(expected, value) > 30


def test_grouped_and_depthwise_weights(
    new_net: Fixture, quantized: Fixture, make_images: Fixture, measure_sqnr: Fixture
) -> None:
    net = new_net()
    model = net.model(net.conv(net.conv(net.conv("x", 3, 8), 8, 8, group=8), 8, 8, group=2))
    x = make_images(4)
    assert measure_sqnr(outputs(model, x)[0], outputs(quantized(model), x)[0]) > 25


@pytest.mark.parametrize("group", [1, 2])
def test_transposed_convolution_on_a_tier_that_has_it(
    group: int, new_net: Fixture, quantized: Fixture, make_images: Fixture, measure_sqnr: Fixture
) -> None:
    net = new_net()
    w = net.weight(8, 6, 2, 2)
    y = net.add(
        "ConvTranspose", net.conv("x", 3, 8), w, net.bias(6 * group), kernel_shape=[2, 2], strides=[2, 2], group=group
    )
    model = net.model(y)
    x = make_images(4)
    found = quantized(model, "jetson")
    assert any(array.dtype == np.int8 and array.shape == (8, 6, 2, 2) for array in found.weights().values())
    assert measure_sqnr(outputs(model, x)[0], outputs(found, x)[0]) > 30


def test_nothing_of_the_float_weights_is_left(resnet_model: Model, quantized: Fixture) -> None:
    left = [array for array in quantized(resnet_model).weights().values() if array.dtype == np.float32]
    assert max(array.size for array in left) <= 32  # scales
