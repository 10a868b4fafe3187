"""Weights and biases as integers.

Weights are int8 and symmetric (zero point 0), one scale per output channel or one for the tensor: activations then
need no correction term for a weight's zero point, and integer kernels and TensorRT both ask for it. -128 is
not used, so that a weight and its negative are both exact. A bias is int32 with scale input*weight, the unit of the
accumulator that it is added to.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

__all__ = ["BIAS_LIMIT", "QuantizedTensor", "quantize_bias", "quantize_weight", "weight_axis"]

BIAS_LIMIT = 2**22
"""Largest |integer| of a bias. float32 holds integers up to 2^24 exactly, and a kernel that rescales its accumulator
in float (onnxruntime's, the mcu tier's) has the products to add: a channel of tiny weights and large bias gets a
coarser weight scale instead. The weight error that costs is below |bias| * 2^-23 for each level of the input."""
ZERO_CHANNEL_SCALE = 2.0**-20
"""Scale of a channel whose weights are all zero: any will do for them, and the bias wants a fine one."""


@dataclass(frozen=True)
class QuantizedTensor:
    """`integers * scale` is the tensor; `scale` is float32, a scalar or [channels along `axis`]."""

    integers: np.ndarray
    scale: np.ndarray
    axis: int | None

    def dequantize(self) -> np.ndarray:
        """float32, as DequantizeLinear computes it."""
        return np.asarray(self.integers.astype(np.float32) * _along(self.scale, self.axis, self.integers.ndim))


def weight_axis(node: ir.Node, rank: int) -> int | None:
    """The axis of output channels in the weight (input 1) of a Conv, ConvTranspose, Gemm or MatMul.

    None where one scale per output channel cannot be written down: a batch of matrices, or a grouped ConvTranspose,
    whose axis 1 counts the channels of one group only.
    """
    if node.op_type == "Conv":
        return 0
    if node.op_type == "ConvTranspose":
        return 1 if node.attributes.get_int("group", 1) == 1 else None
    if node.op_type == "Gemm":
        return 0 if node.attributes.get_int("transB", 0) else 1
    return 1 if rank == 2 else None


def quantize_weight(
    weight: np.ndarray, axis: int | None, bias: np.ndarray | None = None, input_scale: float = 1.0
) -> QuantizedTensor:
    """int8 weight with scale max|w|/127 over the tensor (`axis` None) or for each index of `axis`.

    `bias` [channels] and the input's scale, where the bias is to become an integer, widen the scale of channels
    whose bias would pass BIAS_LIMIT. float32 rounding leaves each weight within half a step.
    """
    others = tuple(a for a in range(weight.ndim) if a != axis) if axis is not None else None
    largest = np.abs(weight).max(axis=others).astype(np.float64)
    scale = np.where(largest > 0, np.maximum(largest / 127, 1e-15), ZERO_CHANNEL_SCALE)
    if bias is not None:
        needed = np.abs(bias.astype(np.float64)) / (input_scale * BIAS_LIMIT)
        scale = np.maximum(scale, needed if axis is not None else needed.max(initial=0.0))
    scale = scale.astype(np.float32)
    integers = np.rint(weight / _along(scale, axis, weight.ndim))
    return QuantizedTensor(np.clip(integers, -127, 127).astype(np.int8), scale, axis)


def quantize_bias(bias: np.ndarray, input_scale: np.float32, weight_scale: np.ndarray) -> QuantizedTensor:
    """int32 bias [channels]; its scale is input_scale * weight_scale, in float32 as kernels compute it."""
    scale = np.asarray(input_scale * weight_scale, np.float32)
    integers = np.rint(bias.astype(np.float64) / scale.astype(np.float64))
    return QuantizedTensor(integers.astype(np.int32), scale, 0 if scale.ndim else None)


def _along(scale: np.ndarray, axis: int | None, rank: int) -> np.ndarray:
    """`scale` shaped to broadcast over a tensor of `rank`."""
    if axis is None:
        return scale
    return scale.reshape([-1 if a == axis else 1 for a in range(rank)])
