"""Cross-layer equalization: the channels of a tensor between two layers are scaled alike, so that one step fits all.

A positive factor for each channel commutes with Relu, LeakyRelu, PRelu and pools: rows of the first layer times the
factors, columns of the second divided by them, and the network computes what it did. What changes is rounding. A
tensor's 256 levels are shared by its channels, so a channel with a tenth of the largest range has 25 of them; and
where a weight has one scale, its rows share that too.

Which factors are best depends on who rounds. Nagel's rule balances the weight ranges of both layers, the best there
is where a weight has one scale. With a scale for each output channel the first layer's rows do not care, a depthwise
second layer does not either, and the activation is all there is to gain; a dense second layer pays in its columns for
what the activation gains (SmoothQuant's trade-off). So several rules are tried for each pair, and the one with the
least expected error of the second layer's output is taken. Small expected gains do not show in the network's output,
and moving ranges makes it more sensitive to inputs larger than the samples: below `least_gain` a pair stays as it is.

A clip from above (ReLU6) does not commute. Its channels keep their factor 1 unless the clip never touched them; those
may grow until they would reach it, so the result is the same for everything up to HEADROOM times what was seen.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx_ir as ir
from pydantic import Field

from edgeopt.model.model import Model
from edgeopt.model.passes.edit import attribute, constant_of
from edgeopt.quantize.channels import FURTHEST, Channels, Rounding, least_bytes, look, rounding_of
from edgeopt.quantize.operators import clip_bounds, has_weight
from edgeopt.quantize.samples import Samples
from edgeopt.quantize.weights import weight_axis
from edgeopt.spec import Spec
from edgeopt.stage import Context, StageResult

__all__ = ["CrossLayer"]

HOMOGENEOUS = frozenset({"Relu", "LeakyRelu", "PRelu", "MaxPool", "AveragePool", "GlobalAveragePool"})
"""f(t*x) = t*f(x) for t > 0, channel by channel."""
HEADROOM = 1.5
"""How far beyond the largest value seen a clip must stay."""
SWEEPS = 3
"""Times that all pairs are balanced, in order: a layer in the middle belongs to two."""
ALPHAS = (0.25, 0.5, 0.75, 1.0)
"""How much of the channels' unevenness goes from the activation to the weight."""


class CrossLayer(Spec):
    """Rescales channels between pairs of Conv and Gemm layers, where that is expected to lower the rounding error.

    Source: Nagel et al. 2019, Data-Free Quantization, arXiv:1906.04721, section 4.1 (the weights' ranges); the trade
    between activations and weights is that of Xiao et al. 2022, SmoothQuant, arXiv:2211.10438, equation 4.
    """

    kind: Literal["cross_layer"] = "cross_layer"
    images: int = Field(32, ge=1, description="calibration samples that the channels' ranges are taken from")
    least_gain: float = Field(
        0.6, ge=0, lt=1, description="share of a pair's expected error that must go, or it stays as it is"
    )

    def least_bytes(self, model: Model, samples: Samples) -> int:
        """Memory that it takes at least, beside what the process holds."""
        return least_bytes(model, {pair.between for pair in _find_pairs(model.graph.graph)}, samples)

    def transform(self, model: Model, samples: Samples, context: Context, room: float = math.inf) -> StageResult:
        """A model that computes the same with other weights. Facts: pairs found, pairs changed, and the mean expected
        gain of the changed ones, dB."""
        changed = model.copy()
        pairs = _find_pairs(changed.graph.graph)
        few = samples.take(self.images)
        ranges = look(model, {pair.between: 1 for pair in pairs}, few, context, room)
        gains: dict[str, float] = {}
        for _ in range(SWEEPS):
            for pair in pairs:
                factors, gain = _choose(pair, ranges[pair.between], rounding_of(context.tier))
                if gain < 1 - self.least_gain:
                    pair.scale(factors)
                    ranges[pair.between] = ranges[pair.between].scaled(factors)
                    gains[pair.between] = gains.get(pair.between, 1.0) * gain
        decibels = [-10 * float(np.log10(gain)) for gain in gains.values()]
        facts = {"pairs": len(pairs), "pairs_equalized": len(gains)}
        return StageResult(changed, facts | {"expected_gain_db": round(float(np.mean(decibels or [0.0])), 2)})


@dataclass(frozen=True)
class _Pair:
    """Two layers and the tensor between them."""

    first: ir.Node
    second: ir.Node
    between: str
    """Name of the node that makes what the second layer reads."""
    limit: float
    """Upper bound of a clip between them; infinity without one."""

    def rows(self) -> np.ndarray:
        """The first layer's weight as [channels between, weights that make it]."""
        weight = _weight(self.first)
        return np.moveaxis(weight, weight_axis(self.first, weight.ndim) or 0, 0).reshape(self.channels, -1)

    @property
    def channels(self) -> int:
        weight = _weight(self.first)
        return int(weight.shape[weight_axis(self.first, weight.ndim) or 0])

    def columns(self) -> np.ndarray:
        """The second layer's weight as [groups, outputs of a group, inputs of a group, kernel]."""
        weight = _weight(self.second)
        if self.second.op_type == "Gemm":
            matrix = weight if weight_axis(self.second, 2) == 0 else weight.T
            return matrix.reshape(1, *matrix.shape, 1)
        groups = _groups(self.second)
        return weight.reshape(groups, weight.shape[0] // groups, weight.shape[1], -1)

    def scale(self, factors: np.ndarray) -> None:
        """Multiply the channels between by `factors` [channels]."""
        axis = weight_axis(self.first, _weight(self.first).ndim) or 0
        _multiply(self.first.inputs[1], factors, axis)
        if len(self.first.inputs) > 2 and self.first.inputs[2] is not None:
            _multiply(self.first.inputs[2], factors, 0)
        weight = _weight(self.second)
        if self.second.op_type == "Gemm":
            _multiply(self.second.inputs[1], 1 / factors, 1 - (weight_axis(self.second, 2) or 0))
            return
        columns = self.columns() / factors.reshape(_groups(self.second), 1, -1, 1)
        _set(self.second.inputs[1], columns.reshape(weight.shape))


def _find_pairs(graph: ir.Graph) -> list[_Pair]:
    return [pair for node in graph if (pair := _pair(node)) is not None]


def _pair(first: ir.Node) -> _Pair | None:
    """The pair that starts with this layer, or None."""
    if first.op_type not in ("Conv", "Gemm") or not _is_own(first):
        return None
    node, limit = first, float("inf")
    while (reader := _only_reader(node)) is not None:
        if reader.op_type in ("Conv", "Gemm"):
            fits = reader.inputs[0] is node.outputs[0] and _is_own(reader) and _inputs(reader) == _outputs(first)
            return _Pair(first, reader, node.name or "", limit) if fits else None
        bounds = clip_bounds(reader)
        flattens = reader.op_type == "Flatten" and node.op_type == "GlobalAveragePool"
        if bounds is not None and bounds[0] == 0 and bounds[1] < np.inf:
            limit = min(limit, bounds[1])
        elif reader.op_type not in HOMOGENEOUS and not flattens:
            return None
        if len(reader.outputs) > 1 or reader.inputs[0] is not node.outputs[0]:
            return None
        node = reader
    return None


def _only_reader(node: ir.Node) -> ir.Node | None:
    value = node.outputs[0]
    readers = [user for user, _ in value.uses()]
    return readers[0] if len(readers) == 1 and not value.is_graph_output() else None


def _is_own(layer: ir.Node) -> bool:
    """Whether weight and bias are constants of this layer alone, in a form that can be scaled."""
    if not has_weight(layer) or attribute(layer, "transA", 0) or attribute(layer, "beta", 1.0) != 1.0:
        return False
    bias = layer.inputs[2] if len(layer.inputs) > 2 else None
    if bias is not None and (constant_of(bias) is None or constant_of(bias).shape != (_outputs(layer),)):  # type: ignore[union-attr]
        return False
    return all(v is None or (v.const_value is not None and len(v.uses()) == 1) for v in layer.inputs[1:3])


def _outputs(layer: ir.Node) -> int:
    weight = _weight(layer)
    return int(weight.shape[weight_axis(layer, weight.ndim) or 0])


def _inputs(layer: ir.Node) -> int:
    weight = _weight(layer)
    if layer.op_type == "Gemm":
        return int(weight.shape[1 - (weight_axis(layer, 2) or 0)])
    return int(weight.shape[1]) * _groups(layer)


def _groups(layer: ir.Node) -> int:
    return int(layer.attributes.get_int("group", 1))


def _choose(pair: _Pair, seen: Channels, rounding: Rounding) -> tuple[np.ndarray, float]:
    """The best factors [channels] and the expected error with them, as a multiple of that without any."""
    columns = np.abs(pair.columns()).max(axis=(1, 3)).reshape(-1)
    rows = np.abs(pair.rows()).max(axis=1)
    reach, columns, rows = (_no_less(x.astype(np.float64)) for x in (seen.largest, columns, rows))
    rules = [np.sqrt(columns / rows), *(columns ** (1 - alpha) / reach**alpha for alpha in ALPHAS)]
    now = _expected_error(pair, seen, np.ones(len(rows)), rounding)
    candidates = [_allowed(pair, seen, factors) for factors in rules]
    errors = [_expected_error(pair, seen, factors, rounding) for factors in candidates]
    best = int(np.argmin(errors))
    return candidates[best], errors[best] / now if now > 0 else 1.0


def _no_less(values: np.ndarray) -> np.ndarray:
    """`values` without any that is FURTHEST below the largest; ones where all are zero."""
    peak = float(values.max(initial=0.0))
    return np.maximum(values, peak / FURTHEST) if peak > 0 else np.ones_like(values)


def _allowed(pair: _Pair, seen: Channels, factors: np.ndarray) -> np.ndarray:
    """`factors` as far as a clip lets them, made such that the largest value of the tensor stays what it is."""
    factors = np.maximum(factors, factors.max() / FURTHEST)
    reach = seen.largest.max()
    if pair.limit < np.inf:
        grown = np.maximum(factors / factors.min(), 1.0)
        reachable = np.maximum(pair.limit / (HEADROOM * _no_less(seen.largest)), 1.0)
        return np.asarray(np.clip(grown, 1.0, reachable))
    scaled = (seen.largest * factors).max()
    return np.asarray(factors * (reach / scaled)) if scaled > 0 else np.ones_like(factors)


def _expected_error(pair: _Pair, seen: Channels, factors: np.ndarray, rounding: Rounding) -> float:
    """What rounding adds to the second layer's output: of the tensor between, of the second layer's weight and, where
    a weight has one scale, of the first layer's."""
    columns = pair.columns()
    scaled = columns / factors.reshape(columns.shape[0], 1, -1, 1)
    error = rounding.error_behind(seen.scaled(factors), scaled)
    if not rounding.per_tensor:
        return error
    rows = np.square(pair.rows(), dtype=np.float64)
    step = np.sqrt(rows.max(axis=1) * factors**2).max() / 127
    energy = np.median(seen.square / np.maximum(rows.mean(axis=1), 1e-30))  # of the first layer's input
    return error + float(step**2 * energy * np.square(scaled, dtype=np.float64).sum())


def _weight(layer: ir.Node) -> np.ndarray:
    weight = constant_of(layer.inputs[1])
    assert weight is not None
    return weight


def _multiply(value: ir.Value | None, factors: np.ndarray, axis: int) -> None:
    array = constant_of(value)
    assert array is not None
    _set(value, array * factors.reshape([-1 if a == axis else 1 for a in range(array.ndim)]))


def _set(value: ir.Value | None, array: np.ndarray) -> None:
    assert value is not None
    value.const_value = ir.tensor(array.astype(np.float32), name=value.name)
