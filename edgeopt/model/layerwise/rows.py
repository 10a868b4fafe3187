"""A layer as a matrix product: its weight as matrices, its input and output as rows at sampled places.

    output rows [groups, n, outputs] = input rows [groups, n, inputs] @ weight [groups, outputs, inputs]^T + bias

A convolution's input rows are the patches under its kernel (im2col), at some of its output's places only: neighbours
say nearly the same, and the patches of all places would be kernel-area times the activation.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

__all__ = ["LayerForm", "image_weights", "layer_form"]


def image_weights(output: np.ndarray) -> np.ndarray:
    """float64 [images]: one over the mean square of each image's `output` [images, ...]; 0 for one of zeros.

    Errors weighed so are relative: a few loud images, which may hold nine tenths of all power, count as all others do.
    """
    rows = output.reshape(len(output), math.prod(output.shape[1:]))
    power = np.einsum("ij,ij->i", rows, rows, dtype=np.float64) / max(1, rows.shape[1])
    return np.asarray(np.divide(1, power, out=np.zeros_like(power), where=power > 0))


@dataclass(frozen=True)
class LayerForm:
    """How one Conv, Gemm or MatMul is such a product. Spatial settings are empty where there is no kernel."""

    transposed: bool
    """The weight has inputs before outputs."""
    groups: int = 1
    kernel: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()
    dilations: tuple[int, ...] = ()
    pads: tuple[int, ...] | None = None
    """Begin of each spatial axis, then end; None: `auto_pad` says."""
    auto_pad: str = "NOTSET"

    def matrices(self, weight: np.ndarray) -> np.ndarray:
        """[groups, outputs, inputs] of the weight as the operator lays it out."""
        matrix = weight.T if self.transposed else weight.reshape(len(weight), -1)
        return matrix.reshape(self.groups, -1, matrix.shape[1])

    def weight(self, matrices: np.ndarray, shape: Sequence[int]) -> np.ndarray:
        """The inverse of `matrices`."""
        flat = matrices.reshape(-1, matrices.shape[2])
        return np.ascontiguousarray(flat.T if self.transposed else flat).reshape(shape)

    def places(self, output: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
        """At most about `count` places of the layer's output to look at, in order: positions in one image for a
        convolution (the same in all images of the batch), rows for a matrix."""
        if self.kernel:
            total, wanted = math.prod(output.shape[2:]), math.ceil(count / len(output))
        else:
            total, wanted = math.prod(output.shape[:-1]), count
        return np.sort(rng.permutation(total)[:wanted])

    def images(self, places: np.ndarray, shape: Sequence[int]) -> np.ndarray:
        """[n]: which image of an output of that shape each row of `output_rows` belongs to."""
        if self.kernel:
            return np.repeat(np.arange(shape[0]), len(places))
        return places // max(1, math.prod(shape[1:-1]))

    def output_rows(self, output: np.ndarray, places: np.ndarray) -> np.ndarray:
        """float32 [groups, n, outputs] of the layer's output [N, channels, ...] (or [..., channels])."""
        if not self.kernel:
            return output.reshape(1, -1, output.shape[-1])[:, places]
        count, channels = output.shape[:2]
        chosen = output.reshape(count, self.groups, channels // self.groups, -1)[..., places]
        return np.ascontiguousarray(chosen.transpose(1, 0, 3, 2)).reshape(self.groups, -1, channels // self.groups)

    def input_rows(self, x: np.ndarray, places: np.ndarray, spatial: Sequence[int]) -> np.ndarray:
        """float32 [groups, n, inputs] of the layer's input; `spatial` is the output's shape without N and channels."""
        if not self.kernel:
            return x.reshape(1, -1, x.shape[-1])[:, places]
        begins, ends = self._padding(x.shape[2:], spatial)
        padded = np.pad(x, [(0, 0), (0, 0), *zip(begins, ends, strict=True)]) if any((*begins, *ends)) else x
        flat = self._indices(padded.shape[2:], places, spatial)
        count, channels = x.shape[:2]
        patches = padded.reshape(count, self.groups, channels // self.groups, -1)[..., flat]
        return patches.transpose(1, 0, 3, 2, 4).reshape(self.groups, count * len(places), -1)

    def _indices(self, shape: Sequence[int], places: np.ndarray, spatial: Sequence[int]) -> np.ndarray:
        """[places, kernel area]: where the kernel's elements lie in a flattened padded image."""
        corners = np.unravel_index(places, tuple(spatial))
        offsets = np.indices(self.kernel).reshape(len(self.kernel), -1)
        flat = np.zeros((len(places), offsets.shape[1]), np.int64)
        for axis, size in enumerate(shape):
            along = corners[axis][:, None] * self.strides[axis] + offsets[axis] * self.dilations[axis]
            flat = flat * size + along
        return flat

    def _padding(self, shape: Sequence[int], spatial: Sequence[int]) -> tuple[list[int], list[int]]:
        rank = len(self.kernel)
        if self.pads is not None:
            return list(self.pads[:rank]), list(self.pads[rank:])
        begins, ends = [], []
        for axis in range(rank):
            reach = (self.kernel[axis] - 1) * self.dilations[axis] + 1
            total = max((spatial[axis] - 1) * self.strides[axis] + reach - shape[axis], 0)
            small, large = total // 2, total - total // 2
            begins.append(large if self.auto_pad == "SAME_LOWER" else small)
            ends.append(small if self.auto_pad == "SAME_LOWER" else large)
        return begins, ends


def layer_form(node: onnx.NodeProto, weight: np.ndarray) -> LayerForm | str:
    """How the layer is a matrix product, or why it is not taken as one."""
    settings = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    if node.op_type == "Conv":
        return _convolution(settings, weight)
    if node.op_type not in ("Gemm", "MatMul"):
        return f"{node.op_type} is not covered"
    if weight.ndim != 2:
        return "its weight is a batch of matrices"
    if node.op_type == "MatMul":
        return LayerForm(transposed=True)
    if settings.get("transA", 0):
        return "its input is transposed"
    return LayerForm(transposed=not settings.get("transB", 0))


def _convolution(settings: Mapping[str, Any], weight: np.ndarray) -> LayerForm:
    rank = weight.ndim - 2
    auto_pad = settings.get("auto_pad", b"NOTSET").decode()
    pads = None if auto_pad.startswith("SAME") else tuple(settings.get("pads", [0] * 2 * rank))
    return LayerForm(
        transposed=False,
        groups=settings.get("group", 1),
        kernel=weight.shape[2:],
        strides=tuple(settings.get("strides", [1] * rank)),
        dilations=tuple(settings.get("dilations", [1] * rank)),
        pads=pads,
        auto_pad=auto_pad,
    )
