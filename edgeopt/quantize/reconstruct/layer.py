"""One layer's fit: from moments of its rows to new integers."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from edgeopt.model.layerwise.moments import Moments
from edgeopt.model.layerwise.ridge import LARGEST_DOUBLE, damped, ridge
from edgeopt.model.layerwise.rows import LayerForm, image_weights, layer_form
from edgeopt.model.passes.edit import attribute, constant_of
from edgeopt.quantize.layers import IntegerLayer
from edgeopt.quantize.reconstruct.solve import round_in_turn
from edgeopt.quantize.weights import BIAS_LIMIT

__all__ = ["Fit", "LayerFit", "layer_fit"]

STRENGTHS = (float("inf"), 10.0, 1.0, 0.1, 0.01, 0.001)
"""How much a weight's change is charged, against the power of its input. Held-out rows choose."""
METRIC_STRENGTH = 1.0
"""At most so much damping while rounding: beyond, every weight is rounded alone."""


@dataclass(frozen=True)
class Fit:
    """New constants of a layer, and its summed squared output error over all rows."""

    weight: np.ndarray
    """int8, as the operator lays it out."""
    bias: np.ndarray | None
    """In the dtype and shape it had; None where there is none to fit."""
    error_before: float
    error_after: float
    signal: float
    """Summed squared target, in the same unit."""


@dataclass
class LayerFit:
    """A layer whose rows are being counted. Shapes: weight [groups, outputs, inputs], bias [groups, outputs]."""

    layer: IntegerLayer
    form: LayerForm
    weight: np.ndarray
    """Of the float model, float32 as the others."""
    bias: np.ndarray | None
    scale: np.ndarray
    """Of the weight's integers, [groups, outputs, 1]."""
    signal: float = 0.0
    fit: Moments = field(init=False)
    held_out: Moments = field(init=False)

    def __post_init__(self) -> None:
        self.fit, self.held_out = Moments.empty(*self.weight.shape), Moments.empty(*self.weight.shape)

    def count(self, x: np.ndarray, target: np.ndarray, places: np.ndarray, *, held_out: bool) -> None:
        """Count the layer's quantized input `x` and wanted output, both as the operator has them, at `places`.

        A row of each image counts as one over the mean square of the image's target: loud images weigh no more than
        quiet ones.
        """
        rows = _floats(self.form.input_rows(x, places, target.shape[2:]))
        error = _floats(self.form.output_rows(target, places))
        weights = image_weights(target)[self.form.images(places, target.shape)]
        self.signal += float((np.square(error).sum((0, 2), dtype=np.float64) * weights).sum())
        error = error - rows @ self.weight.swapaxes(1, 2)
        if self.bias is not None:
            error -= self.bias[:, None]
        (self.held_out if held_out else self.fit).add(rows, error, weights)

    def solve_bytes(self, rows: int) -> int:
        """About the most memory that counting `rows` rows at a time and solving take."""
        groups, outputs, inputs = self.weight.shape
        wide = 8 if inputs <= LARGEST_DOUBLE else 4
        squares = groups * inputs * inputs * (3 * 4 + 5 * wide)
        products = groups * outputs * inputs * (4 * 4 + 4 * wide)
        return int(squares + products + 16 * rows * groups * (inputs + outputs))

    def solve(self) -> Fit:
        """The integers that give the least error, as far as held-out rows trust it. Uses the moments up."""
        strength = self._choose_strength()
        moments = self.fit
        moments.merge(self.held_out)
        centred = self._centred(moments)
        target = (self.weight + self._change(centred, strength)) / self.scale
        metric = damped(centred.xx, min(strength, METRIC_STRENGTH))
        rounded = round_in_turn(target, metric).astype(np.float32)
        change = rounded * self.scale - self.weight
        shift = self._shift(moments, change)
        before = self._present_error(moments)
        after = float(moments.error(change, shift).sum())
        weight = self.form.weight(rounded.astype(np.int8), self.layer.weight.shape)
        return Fit(weight, self._bias(shift), before, after, self.signal)

    def _choose_strength(self) -> float:
        """The ridge that is best on held-out rows, looked for from the strongest on."""
        best, chosen = float("inf"), STRENGTHS[0]
        centred = self._centred(self.fit)
        for strength in STRENGTHS:
            change = self._change(centred, strength).astype(np.float32)
            error = float(self.held_out.error(change, self._shift(self.fit, change)).sum())
            if error > best:
                break
            best, chosen = error, strength
        return chosen

    def _change(self, centred: Moments, strength: float) -> np.ndarray:
        """What is added to the float weight: all of it by one factor (certain, even from few rows), then a ridge.

        Noise that grew through many layers hides part of the signal, and the least error is then in a smaller output.
        """
        power = ((self.weight @ centred.xx) * self.weight).sum()
        factor = (self.weight * centred.ex).sum() / max(power, 1e-30)
        change: np.ndarray = factor * self.weight
        if strength == float("inf"):
            return change
        return np.asarray(change + ridge(centred.xx, centred.ex - change @ centred.xx, strength))

    def _centred(self, moments: Moments) -> Moments:
        """The moments that the weight has to answer for: a bias takes the means."""
        return moments if self.bias is None else moments.centred()

    def _shift(self, moments: Moments, change: np.ndarray) -> np.ndarray:
        """float64 [groups, outputs]: what the bias gains when the weight changes so; 0 without a bias."""
        if self.bias is None:
            return np.zeros(self.weight.shape[:2])
        missing = moments.e - (change.astype(np.float64) @ moments.x[:, :, None])[:, :, 0]
        return np.asarray(missing / (moments.rows or 1))

    def _present_error(self, moments: Moments) -> float:
        """Summed squared error with the integers that the layer has now."""
        integers = _floats(self.form.matrices(self.layer.weight))
        shift = np.zeros(self.weight.shape[:2])
        if self.bias is not None and self.layer.bias is not None:
            bias = self.layer.bias.astype(np.float64) * (
                1.0 if self.layer.bias_scale is None else self.layer.bias_scale.astype(np.float64)
            )
            shift = bias.reshape(self.bias.shape) - self.bias
        return float(moments.error(integers * self.scale - self.weight, shift).sum())

    def _bias(self, shift: np.ndarray) -> np.ndarray | None:
        """The new bias in the form of the old."""
        old = self.layer.bias
        if self.bias is None or old is None:
            return None
        bias = (self.bias + shift).reshape(old.shape)
        if self.layer.bias_scale is not None:
            bias = np.rint(bias / self.layer.bias_scale.astype(np.float64))
            bias = np.clip(bias, -BIAS_LIMIT, BIAS_LIMIT)
        return np.asarray(bias.astype(old.dtype))


def layer_fit(layer: IntegerLayer, node: ir.Node) -> LayerFit | str:
    """The fit to come of an integer layer, or why there is none. `node` is the float model's node of that name."""
    weight = constant_of(node.inputs[1])
    if weight is None:
        return "its weight is computed in the float model"
    form = layer_form(ir.to_proto(node), weight)
    if isinstance(form, str):
        return form
    is_gemm = node.op_type == "Gemm"
    alpha, beta = (np.float32(attribute(node, key, 1.0)) if is_gemm else np.float32(1) for key in ("alpha", "beta"))  # type: ignore[arg-type]
    matrices = _floats(form.matrices(weight * alpha))
    groups, outputs, _ = matrices.shape
    scale = _floats(np.broadcast_to(layer.weight_scale, groups * outputs)).reshape(groups, outputs, 1)
    bias = constant_of(node.inputs[2]) if len(node.inputs) > 2 else None
    fits = bias is not None and layer.bias is not None and layer.bias.size == groups * outputs
    if not fits or bias is None:
        return LayerFit(layer, form, matrices, None, scale) if bias is None else "its bias has another form"
    vector = np.broadcast_to(bias.reshape(-1) * beta, groups * outputs)
    return LayerFit(layer, form, matrices, _floats(vector).reshape(groups, outputs), scale)


def _floats(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array, np.float32)
