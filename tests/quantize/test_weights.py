"""Weights keep within half a step, biases within the accumulator."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgeopt.quantize.weights import BIAS_LIMIT, quantize_bias, quantize_weight, weight_axis

WEIGHTS = hnp.arrays(np.float32, st.tuples(*[st.integers(1, 5)] * 2), elements=st.floats(-100, 100, width=32))


@given(WEIGHTS, st.sampled_from([0, 1, None]))
def test_each_weight_is_within_half_a_step(weight: np.ndarray, axis: int | None) -> None:
    quantized = quantize_weight(weight, axis)
    step = quantized.scale if axis is None else quantized.scale.reshape([-1, 1] if axis == 0 else [1, -1])
    assert (np.abs(quantized.dequantize() - weight) <= 0.5001 * step).all()
    assert quantized.integers.dtype == np.int8
    assert np.abs(quantized.integers.astype(int)).max() <= 127


def test_per_channel_keeps_a_small_channel_that_per_tensor_loses() -> None:
    weight = np.stack([np.linspace(-1, 1, 9), np.linspace(-1, 1, 9) * 1e-3]).astype(np.float32)
    errors = [np.abs(quantize_weight(weight, axis).dequantize() - weight)[1].max() for axis in (0, None)]
    assert errors[0] < 1e-5 < 1e-4 < errors[1]


@pytest.mark.parametrize(
    ("operator", "attributes", "rank", "axis"),
    [
        ("Conv", {}, 4, 0),
        ("Conv", {"group": 8}, 4, 0),
        ("ConvTranspose", {}, 4, 1),
        ("ConvTranspose", {"group": 2}, 4, None),
        ("Gemm", {}, 2, 1),
        ("Gemm", {"transB": 1}, 2, 0),
        ("MatMul", {}, 2, 1),
        ("MatMul", {}, 3, None),
    ],
)
def test_the_axis_counts_output_channels(
    operator: str, attributes: dict[str, int], rank: int, axis: int | None
) -> None:
    assert weight_axis(ir.node(operator, [], attributes), rank) == axis


def test_a_large_bias_on_tiny_weights_fits_the_accumulator() -> None:
    weight = np.array([[1e-9, -1e-9], [1.0, 2.0]], np.float32)
    bias = np.array([50.0, 0.1], np.float32)
    quantized = quantize_weight(weight, 0, bias, input_scale=0.01)
    integers = quantize_bias(bias, np.float32(0.01), quantized.scale)
    assert np.abs(integers.integers).max() <= BIAS_LIMIT + 1
    np.testing.assert_allclose(integers.dequantize(), bias, rtol=1e-5)
    assert quantized.scale[1] == np.float32(2 / 127)  # channels that fit keep the finest step


@pytest.mark.parametrize("weight", [np.zeros((2, 3)), np.array([[0, 0, 0], [1, 2, 3.0]])], ids=["all", "channel"])
@pytest.mark.parametrize("axis", [0, None])
def test_zero_weights_get_a_valid_scale_and_an_exact_bias(weight: np.ndarray, axis: int | None) -> None:
    bias = np.array([0.3, -0.7], np.float32)
    quantized = quantize_weight(weight.astype(np.float32), axis, bias, 0.02)
    assert (quantized.scale > 0).all()
    assert not quantized.integers[weight == 0].any()
    np.testing.assert_allclose(quantize_bias(bias, np.float32(0.02), quantized.scale).dequantize(), bias, atol=3e-4)
