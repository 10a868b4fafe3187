"""Weights and biases as integers.

Weights are int8 and symmetric (zero point 0), one scale per output channel or one for the tensor: activations then
need no correction term for a weight's zero point, and integer kernels and TensorRT both ask for it. -128 is
not used, so that a weight and its negative are both exact. A bias is int32 with scale input*weight, the unit of the
accumulator that it is added to.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import onnx_ir as ir
from pydantic import Field

from edgeopt.spec import Spec

__all__ = [
    "BIAS_LIMIT",
    "MaxScale",
    "MseScale",
    "QuantizedTensor",
    "WeightScale",
    "quantize_bias",
    "quantize_weight",
    "weight_axis",
]

BIAS_LIMIT = 2**22
"""Largest |integer| of a bias. float32 holds integers up to 2^24 exactly, and a kernel that rescales its accumulator
in float (onnxruntime's, the mcu tier's) has the products to add: a channel of tiny weights and large bias gets a
coarser weight scale instead. The weight error that costs is below |bias| * 2^-23 for each level of the input."""
ZERO_CHANNEL_SCALE = 2.0**-20
"""Scale of a channel whose weights are all zero: any will do for them, and the bias wants a fine one."""
SMALLEST_SCALE = 1e-15
"""Lower bound of a weight's scale: the bias has scale input*weight, and that has to be a normal float32."""
COARSE_SHARES = np.linspace(0.9, 0.1, 9)
"""Candidate scales of `MseScale`, as shares of the one that clips nothing; wider steps seldom pay."""
FINE_REACH = (0.95, 1.06)
"""Where `MseScale` looks again, as multiples of the best candidate: finer to let go of large weights, coarser to meet
the others."""
FINE_WORK = 2**13
"""About this many roundings are tried for a channel in the second look: 256 scales for nine weights, 8 for 1,000 or
more. The fewer weights a channel has, the more there is to gain: rounding errors of few values vary."""
BLOCK = 2**16
"""Weights that are tried at once: they stay in the processor's cache for all candidates."""


class MaxScale(Spec):
    """max|w|/127: no weight is clipped, the largest sets the step of all.

    Source: Jacob et al. 2018, arXiv:1712.05877; symmetric as in Wu et al. 2020, arXiv:2004.09602, section 3.1.
    """

    kind: Literal["max"] = "max"

    def choose_scale(self, weight: np.ndarray, axis: int | None) -> np.ndarray:
        """float32 scale: [channels along `axis`], or a scalar for the whole tensor (`axis` None)."""
        return _scale_of(_rows(weight, axis).max(axis=1), axis)


class MseScale(Spec):
    """The scale with the least squared error of the rounded weights, clipping included, by search.

    Outliers are clipped where that rounds the others finely enough to pay; a channel of few weights (a depthwise
    convolution has 9) gets the scale on whose grid they happen to lie best. Never worse than `max`, which is one of
    the candidates. Source: Choukroun et al. 2019, Low-bit Quantization, arXiv:1902.06822, section 3.
    """

    kind: Literal["mse"] = "mse"

    def choose_scale(self, weight: np.ndarray, axis: int | None) -> np.ndarray:
        """float32 scale: [channels along `axis`], or a scalar for the whole tensor (`axis` None)."""
        rows = _rows(weight, axis)
        height = max(1, BLOCK // max(1, rows.shape[1]))
        best = [_best_scale(rows[start : start + height]) for start in range(0, len(rows), height)]
        return _scale_of(127 * np.concatenate(best), axis)


WeightScale = Annotated[MaxScale | MseScale, Field(discriminator="kind")]
LARGEST = MaxScale()
"""What `quantize_weight` does unless told otherwise."""


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
    weight: np.ndarray,
    axis: int | None,
    bias: np.ndarray | None = None,
    input_scale: float = 1.0,
    method: WeightScale = LARGEST,
) -> QuantizedTensor:
    """int8 weight with the scale that `method` chooses for the tensor (`axis` None) or each index of `axis`.

    `bias` [channels] and the input's scale, where the bias is to become an integer, widen the scale of channels
    whose bias would pass BIAS_LIMIT. float32 rounding leaves each weight that is not clipped within half a step.
    """
    scale = method.choose_scale(weight, axis)
    if bias is not None:
        needed = np.abs(bias.astype(np.float64)) / (input_scale * BIAS_LIMIT)
        scale = np.maximum(scale, needed if axis is not None else needed.max(initial=0.0)).astype(np.float32)
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


def _rows(weight: np.ndarray, axis: int | None) -> np.ndarray:
    """float32 magnitudes [channels, weights of one]; the whole tensor is one channel where `axis` is None."""
    magnitudes: np.ndarray = np.abs(weight, dtype=np.float32)
    if axis is None:
        return magnitudes.reshape(1, -1)
    return np.ascontiguousarray(np.moveaxis(magnitudes, axis, 0)).reshape(weight.shape[axis], -1)


def _scale_of(largest: np.ndarray, axis: int | None) -> np.ndarray:
    """largest/127 as float32 [channels], or a scalar; channels without a weight other than zero get a fine one."""
    wide = largest.astype(np.float64)
    scale = np.where(wide > 0, np.maximum(wide / 127, SMALLEST_SCALE), ZERO_CHANNEL_SCALE).astype(np.float32)
    return np.asarray(scale if axis is not None else scale[0])


def _best_scale(rows: np.ndarray) -> np.ndarray:
    """float64 [channels]: the scale with the least squared error for each row of magnitudes [channels, n]."""
    largest = rows.max(axis=1).astype(np.float64) / 127
    best: np.ndarray = largest
    least = _errors(rows, largest)
    risen = 0
    for share in COARSE_SHARES:
        best, least, better = _better(rows, largest * share, best, least)
        risen = 0 if better else risen + 1
        if risen == 2:  # clipping more only makes it worse from here
            break
    coarse = best
    for share in np.linspace(*FINE_REACH, int(np.clip(FINE_WORK // rows.shape[1], 8, 256))):
        best, least, _ = _better(rows, coarse * share, best, least)
    return best


def _better(
    rows: np.ndarray, scale: np.ndarray, best: np.ndarray, least: np.ndarray
) -> tuple[np.ndarray, np.ndarray, bool]:
    """The better of `scale` and `best` [channels] for each row, their errors, and whether any was improved."""
    errors = _errors(rows, scale)
    better = errors < least
    return np.where(better, scale, best), np.where(better, errors, least), bool(better.any())


def _errors(rows: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """float64 [channels]: summed squared rounding and clipping error of each row [channels, n] under its scale."""
    step = np.maximum(scale, SMALLEST_SCALE).astype(np.float32)[:, None]
    errors = np.zeros(len(rows))
    for start in range(0, rows.shape[1], BLOCK):
        exact = rows[:, start : start + BLOCK] * (1 / step)
        rounded = np.rint(exact)
        np.minimum(rounded, 127, out=rounded)
        rounded -= exact
        errors += np.einsum("ij,ij->i", rounded, rounded)
    return np.asarray(errors * np.square(step[:, 0], dtype=np.float64))
