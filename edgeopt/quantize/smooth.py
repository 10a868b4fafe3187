"""SmoothQuant: outlier channels behind a normalization move into the weights that read them.

Transformers have channels of LayerNormalization's output that are ten and more times larger than the rest, always the
same ones. One step for the whole tensor then leaves the others a few levels. The normalization's own scale and bias
divide each channel by a factor at no cost, and the layers behind multiply it back in their weights' rows, where a scale
for each output channel leaves room. Without outliers there is little to gain: below `least_gain` a normalization stays.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import onnx_ir as ir
from pydantic import Field

from edgeopt.model.model import Model
from edgeopt.model.passes.edit import attribute, constant_of
from edgeopt.quantize.channels import FURTHEST, Channels, Rounding, least_bytes, look, rounding_of
from edgeopt.quantize.operators import has_weight
from edgeopt.quantize.samples import Samples
from edgeopt.spec import Spec
from edgeopt.stage import Context, StageResult

__all__ = ["SmoothQuant"]

NORMALIZATIONS = frozenset({"LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization"})
GRID = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


class SmoothQuant(Spec):
    """Evens out the channels behind each normalization for the MatMul and Gemm layers that read it.

    Source: Xiao et al. 2022, SmoothQuant, arXiv:2211.10438, equation 4: factors max|x|^alpha / max|w|^(1-alpha). A
    normalization is left alone where something else reads it (a residual connection does), or where no alpha is
    expected to lower the error.
    """

    kind: Literal["smooth_quant"] = "smooth_quant"
    alpha: float | None = Field(
        None, ge=0, le=1, description="how much of the unevenness moves to the weights; none: the best of a grid, each"
    )
    images: int = Field(32, ge=1, description="calibration samples that the channels' ranges are taken from")
    least_gain: float = Field(
        0.5, ge=0, lt=1, description="share of the expected error that must go, or a normalization stays as it is"
    )

    def least_bytes(self, model: Model, samples: Samples) -> int:
        """Memory that it takes at least, beside what the process holds."""
        return least_bytes(
            model, {spot.name for node in model.graph.graph if (spot := _spot(node)) is not None}, samples
        )

    def transform(self, model: Model, samples: Samples, context: Context, room: float = math.inf) -> StageResult:
        """A model that computes the same with other weights. Facts: normalizations found and smoothed, alphas by node
        name, and the mean expected gain of those smoothed, dB."""
        changed = model.copy()
        spots = [spot for node in changed.graph.graph if (spot := _spot(node)) is not None]
        seen = look(model, {spot.name: -1 for spot in spots}, samples.take(self.images), context, room)
        rounding = rounding_of(context.tier)
        alphas: dict[str, float] = {}
        gains: list[float] = []
        for spot in spots:
            alpha, factors, gain = self._choose(spot, seen[spot.name], rounding)
            if self.alpha is not None or gain < 1 - self.least_gain:
                spot.divide(factors)
                alphas[spot.name] = alpha
                gains.append(-10 * float(np.log10(max(gain, 1e-9))))
        facts = {"normalizations": len(spots), "smoothed": len(alphas), "alphas": alphas}
        return StageResult(changed, facts | {"expected_gain_db": round(float(np.mean(gains or [0.0])), 2)})

    def _choose(self, spot: _Spot, seen: Channels, rounding: Rounding) -> tuple[float, np.ndarray, float]:
        """Alpha, its factors, and the expected error as a multiple of that without."""
        weights = [_columns(reader) for reader in spot.readers]
        columns = _no_less(np.max([np.abs(w).max(axis=(0, 1, 3)) for w in weights], axis=0))
        reach = _no_less(seen.largest)

        def error(factors: np.ndarray) -> float:
            scaled = seen.scaled(1 / factors)
            return sum(rounding.error_behind(scaled, w * factors.reshape(1, 1, -1, 1)) for w in weights)

        now = error(np.ones_like(reach))
        alphas = GRID if self.alpha is None else (self.alpha,)
        tried = [(alpha, reach**alpha / columns ** (1 - alpha)) for alpha in alphas]
        errors = [error(factors) for _, factors in tried]
        best = int(np.argmin(errors))
        alpha, factors = tried[best]
        factors = factors / np.exp(np.log(factors).mean())
        return alpha, factors, errors[best] / now if now > 0 else 1.0


@dataclass
class _Spot:
    """A normalization whose output only layers read, perhaps moved around on the way."""

    name: str
    """Of the node that makes the output."""
    constants: list[ir.Value]
    """[channels] each: dividing all of them divides the output."""
    readers: list[ir.Node] = field(default_factory=list)

    def divide(self, factors: np.ndarray) -> None:
        """Divide the output's channels by `factors`, and multiply them into the readers."""
        for constant in self.constants:
            array = constant_of(constant)
            assert array is not None
            _set(constant, array / factors.reshape([-1] if array.ndim < 2 else [1] * (array.ndim - 1) + [-1]))
        for reader in self.readers:
            weight = constant_of(reader.inputs[1])
            assert weight is not None
            _set(reader.inputs[1], weight * (factors if _transposed(reader) else factors[:, None]))


def _spot(node: ir.Node) -> _Spot | None:
    constants = _constants(node)
    if constants is None:
        return None
    channels = int(constants[0].const_value.size)  # type: ignore[union-attr]
    readers = _readers(node.outputs[0], channels)
    return _Spot(node.name or "", constants, readers) if readers else None


def _constants(node: ir.Node) -> list[ir.Value] | None:
    """What scales the node's output channel by channel (last axis), when all of it belongs to the node alone."""
    if node.op_type in NORMALIZATIONS:
        found = [value for value in node.inputs[1:3] if value is not None]
    elif node.op_type == "Mul":
        found = _vectors(node)
    elif node.op_type == "Add":  # a spelled-out LayerNormalization ends in Mul, Add
        scale = next((maker for value in node.inputs if (maker := _own_scale(value)) is not None), None)
        found = [*_vectors(scale), *_vectors(node)] if scale is not None and _vectors(node) else []
    else:
        return None
    sizes = {value.const_value.size if value.const_value is not None else 0 for value in found}
    own = all(len(value.uses()) == 1 for value in found)
    return found if found and own and len(sizes) == 1 and sizes.pop() > 1 else None


def _own_scale(value: ir.Value | None) -> ir.Node | None:
    """The Mul by a vector that makes `value`, if nobody else reads it."""
    maker = value.producer() if value is not None else None
    fits = maker is not None and maker.op_type == "Mul" and len(maker.outputs[0].uses()) == 1 and _vectors(maker)
    return maker if fits else None


def _vectors(node: ir.Node) -> list[ir.Value]:
    """Constant inputs with all their numbers along the last axis."""
    constants = [value for value in node.inputs if value is not None and value.const_value is not None]
    return [v for v in constants if v.const_value.size > 1 and v.const_value.shape[-1] == v.const_value.size]  # type: ignore[union-attr]


def _readers(source: ir.Value, channels: int) -> list[ir.Node]:
    """The layers that read `source`; [] where anything else does, or moves the channels out of the last axis."""
    reached: dict[ir.Value, None] = {source: None}
    layers: dict[ir.Node, None] = {}
    joins: list[ir.Node] = []
    queue = [source]
    while queue:
        value = queue.pop()
        if value.is_graph_output():
            return []
        for node, index in value.uses():
            if index == 0 and _is_layer(node, channels):
                layers[node] = None
                continue
            if not _keeps_channels(node, index, channels):
                return []
            joins += [node] if node.op_type == "Concat" else []
            fresh = [output for output in node.outputs if output not in reached]
            reached |= dict.fromkeys(fresh)
            queue += fresh
    whole = all(value in reached for node in joins for value in node.inputs)
    return list(layers) if whole else []


def _is_layer(node: ir.Node, channels: int) -> bool:
    """Whether the node multiplies `channels` by a constant matrix of its own."""
    if node.op_type not in ("MatMul", "Gemm") or not has_weight(node) or attribute(node, "transA", 0):
        return False
    weight, value = constant_of(node.inputs[1]), node.inputs[1]
    assert weight is not None
    assert value is not None
    own = value.const_value is not None and len(value.uses()) == 1 and weight.ndim == 2
    return own and weight.shape[1 if _transposed(node) else 0] == channels


def _keeps_channels(node: ir.Node, index: int, channels: int) -> bool:
    """Whether the node only moves its input around, with the last axis (of `channels`) as it was."""
    value = node.inputs[index]
    if node.op_type in ("Shape", "Identity"):
        return True
    if value is None or value.shape is None:
        return False
    last = len(value.shape) - 1
    if node.op_type == "Transpose":
        order = node.attributes.get_ints("perm", tuple(range(last, -1, -1)))
        return bool(order[-1] == last)
    if node.op_type == "Reshape":
        shape = node.outputs[0].shape
        return index == 0 and shape is not None and len(shape) > 0 and bool(shape[-1] == channels)
    if node.op_type in ("Concat", "Split", "Gather"):
        axis = node.attributes.get_int("axis", 0)
        return (index == 0 or node.op_type == "Concat") and bool(axis % (last + 1) != last)
    if node.op_type == "Slice":
        axes = constant_of(node.inputs[3]) if len(node.inputs) > 3 else None
        return index == 0 and axes is not None and all(int(axis) % (last + 1) != last for axis in axes)
    return False


def _transposed(node: ir.Node) -> bool:
    """Whether the weight is [outputs, inputs]."""
    return node.op_type == "Gemm" and bool(attribute(node, "transB", 0))


def _columns(node: ir.Node) -> np.ndarray:
    """The weight as [1, outputs, inputs, 1]."""
    weight = constant_of(node.inputs[1])
    assert weight is not None
    return (weight if _transposed(node) else weight.T)[None, :, :, None]


def _no_less(values: np.ndarray) -> np.ndarray:
    """float64 `values` without any that is FURTHEST below the largest."""
    peak = float(values.max(initial=0.0)) or 1.0
    return np.maximum(values.astype(np.float64), peak / FURTHEST)


def _set(value: ir.Value | None, array: np.ndarray) -> None:
    assert value is not None
    value.const_value = ir.tensor(array.astype(np.float32), name=value.name)
