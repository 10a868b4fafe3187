"""Weights keep within half a step, biases within the accumulator."""

from __future__ import annotations

from typing import get_args

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgeopt.quantize.weights import (
    BIAS_LIMIT,
    MaxScale,
    MseScale,
    WeightScale,
    quantize_bias,
    quantize_weight,
    weight_axis,
)

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


FAMILY = [member() for member in get_args(get_args(WeightScale)[0])]


def squared_error(weight: np.ndarray, axis: int | None, method: WeightScale) -> np.ndarray:
    """Of each channel along axis 0, or of all."""
    errors = np.square(quantize_weight(weight, axis, method=method).dequantize() - weight, dtype=np.float64)
    return np.asarray(errors.sum(axis=None if axis is None else tuple(range(1, weight.ndim))))


@pytest.mark.parametrize("method", FAMILY, ids=lambda m: m.kind)
@pytest.mark.parametrize("axis", [0, 1, None])
def test_every_method_gives_one_positive_float32_scale_for_each_channel(method: WeightScale, axis: int | None) -> None:
    weight = np.random.default_rng(0).standard_normal((4, 6, 3, 3)).astype(np.float32)
    weight[1] = 0
    scale = method.choose_scale(weight, axis)
    assert scale.shape == (() if axis is None else (weight.shape[axis],))
    assert scale.dtype == np.float32
    assert (scale > 0).all()


def test_mse_finds_the_scale_that_a_fine_search_finds() -> None:
    random = np.random.default_rng(1)
    weight = random.standard_normal((6, 9)).astype(np.float32)
    found = squared_error(weight, 0, MseScale())
    for row, error in zip(weight, found, strict=True):
        scales = np.abs(row).max() / 127 * np.linspace(0.08, 1.06, 20_000)
        exact = row[None] / scales[:, None]
        errors = np.square((np.clip(np.rint(exact), -127, 127) - exact) * scales[:, None]).sum(axis=1)
        assert error < 1.25 * errors.min()


def test_mse_clips_an_outlier_that_would_round_all_others_away() -> None:
    weight = np.random.default_rng(2).standard_normal((1, 400_000)).astype(np.float32)
    weight[0, 0] = 40
    plain, best = (squared_error(weight, 0, method)[0] for method in (MaxScale(), MseScale()))
    assert best < plain / 2
    assert np.abs(quantize_weight(weight, 0, method=MseScale()).dequantize()).max() < 30


def test_mse_is_at_least_two_decibels_better_for_depthwise_kernels() -> None:
    weight = np.random.default_rng(3).standard_normal((256, 1, 3, 3)).astype(np.float32)
    plain, best = (squared_error(weight, 0, method).sum() for method in (MaxScale(), MseScale()))
    assert 10 * np.log10(plain / best) > 2


@given(WEIGHTS, st.sampled_from([0, None]))
def test_mse_is_never_worse_than_max(weight: np.ndarray, axis: int | None) -> None:
    plain, best = (squared_error(weight, axis, method) for method in (MaxScale(), MseScale()))
    assert (best <= plain * (1 + 1e-4) + 1e-12).all()


def test_a_bias_that_needs_a_coarser_scale_gets_it_from_every_method() -> None:
    weight, bias = np.array([[1e-9, -1e-9]], np.float32), np.array([50.0], np.float32)
    for method in FAMILY:
        scale = quantize_weight(weight, 0, bias, 0.01, method).scale
        assert np.abs(quantize_bias(bias, np.float32(0.01), scale).integers).max() <= BIAS_LIMIT + 1
