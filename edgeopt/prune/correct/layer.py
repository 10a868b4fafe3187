"""One layer's fit: from the moments of its rows to a new weight and constant."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx

from edgeopt.model.layerwise.moments import Moments
from edgeopt.model.layerwise.ridge import ridge
from edgeopt.model.layerwise.rows import LayerForm, layer_form
from edgeopt.model.layerwise.segments import Segments
from edgeopt.prune.batches import LARGEST, empty_moments
from edgeopt.prune.correct.tail import SMALLEST_GAIN, Constants, Tail, tail_of

__all__ = ["LayerFit", "layer_fit"]

STRENGTHS = (float("inf"), 10.0, 1.0, 0.1, 0.01, 1e-3, 1e-4, 1e-5)
"""How much a weight's change is charged, against the power of its input. Held-out rows choose."""
SMALLEST_SINGLE = 1e-3
"""Of these in float32: with less, what is lost in rounding is no longer small beside it."""


@dataclass
class LayerFit:
    """A layer whose rows are being counted. Weight [groups, outputs, inputs] and constant are as its readers see it."""

    form: LayerForm
    original: np.ndarray
    """The weight as the operator lays it out."""
    tail: Tail
    weight: np.ndarray = field(init=False)
    """float64, float32 where there are many inputs."""
    gain: np.ndarray = field(init=False)
    constant: np.ndarray = field(init=False)
    fit: Moments = field(init=False)
    held_out: Moments = field(init=False)
    signal: float = 0.0

    def __post_init__(self) -> None:
        plain = self.form.matrices(self.original).astype(np.float64)
        self.gain = self.tail.gain.reshape(*plain.shape[:2], 1)
        self.constant = self.tail.constant.reshape(plain.shape[:2])
        self.fit, self.held_out = (empty_moments(*plain.shape) for _ in range(2))
        self.weight = (plain * self.gain).astype(self.fit.xx.dtype)

    def count(self, x: np.ndarray, target: np.ndarray, places: np.ndarray, *, held_out: bool) -> None:
        """Count the layer's input `x` and the output wanted behind its tail, as the graph has them, at `places`."""
        rows = self.form.input_rows(x, places, target.shape[2:])
        wanted = self.form.output_rows(target, places).astype(np.float64)
        self.signal += float(np.square(wanted).sum())
        error = wanted - rows.astype(self.weight.dtype) @ self.weight.swapaxes(1, 2) - self.constant[:, None]
        (self.held_out if held_out else self.fit).add(rows, error)

    def solve(self) -> tuple[np.ndarray, dict[str, np.ndarray], float, float]:
        """The new weight, as the operator lays it out, the tail's new constants, and the error over all rows before and
        after, relative to the target. Uses the moments up.

        In front of a BatchNormalization each output's weights keep the length they had: it is by their length that
        training tells how far a step of the learning rate goes.
        """
        strength = self._choose_strength()
        moments = self.fit
        moments.merge(self.held_out)
        before = float(moments.ee.sum())
        change = self._change(moments, strength)
        shift = self._shift(moments, change)
        after = float(moments.error(change, shift).sum())
        gains = np.abs(self.gain)
        open_ = gains > SMALLEST_GAIN * max(gains.max(), 1e-30)
        plain = self.form.matrices(self.original).astype(np.float64)
        weight = np.where(open_, (self.weight + change) / np.where(open_, self.gain, 1.0), plain)
        size = _lengths(plain, weight) if self.tail.normalizes else np.ones_like(self.gain)
        weight *= size
        mean, variance = _outputs(moments, weight)
        gain, constant = self.gain / size, self.constant + shift
        constants = self.tail.changed(gain.reshape(-1), constant.reshape(-1), mean, variance)
        signal = max(self.signal, 1e-30)
        return self.form.weight(weight, self.original.shape), constants, before / signal, after / signal

    def _choose_strength(self) -> float:
        """The ridge that is best on held-out rows, looked for from the strongest on; none without such rows."""
        best, chosen = float("inf"), STRENGTHS[0]
        single = self.weight.dtype == np.float32
        strengths = [strength for strength in STRENGTHS if not single or strength >= SMALLEST_SINGLE]
        for strength in strengths if self.held_out.rows else ():
            change = self._change(self.fit, strength)
            error = float(self.held_out.error(change, self._shift(self.fit, change)).sum())
            if error >= best:
                break
            best, chosen = error, strength
        return chosen

    def _change(self, moments: Moments, strength: float) -> np.ndarray:
        if strength == float("inf"):
            return np.zeros_like(self.weight)
        wanted = moments.centred() if self.tail.fits else moments
        return ridge(wanted.xx, wanted.ex, strength)

    def _shift(self, moments: Moments, change: np.ndarray) -> np.ndarray:
        """float64 [groups, outputs]: what the constant gains when the weight changes so; 0 where it cannot."""
        if not self.tail.fits:
            return np.zeros_like(self.constant)
        reach = (change.astype(np.float64) @ moments.x[:, :, None])[:, :, 0]
        return np.asarray(moments.e - reach) / max(moments.rows, 1)


def layer_fit(node: onnx.NodeProto, graph: Segments, constants: Constants) -> LayerFit | str:
    """The fit to come of a layer of the pruned graph, or why there is none."""
    weight = constants.get(node.input[1])
    if weight is None:
        return "its weight is computed"
    if weight.dtype != np.float32:
        return f"its weight is {weight.dtype}"
    if len(graph.readers(node.input[1])) > 1:
        return "it shares its weight with another layer"
    if any(a.name in ("alpha", "beta") and a.f != 1 for a in node.attribute):
        return "its product is scaled"
    form = layer_form(node, weight)
    if isinstance(form, str):
        return form
    groups, outputs, inputs = form.matrices(weight).shape
    if inputs > LARGEST:
        return f"it has more than {LARGEST} inputs"
    tail = tail_of(node, groups * outputs, graph, constants)
    return tail if isinstance(tail, str) else LayerFit(form, weight, tail)


def _outputs(moments: Moments, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of `weight @ x` over the rows, float64 [outputs] each."""
    rows = max(moments.rows, 1)
    mean = (weight @ moments.x[:, :, None])[:, :, 0] / rows
    own = weight.astype(moments.xx.dtype)
    variance = ((own @ moments.centred().xx) * own).sum(2, dtype=np.float64) / rows
    return mean.reshape(-1), np.maximum(variance, 0).reshape(-1)


def _lengths(wanted: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Factors [groups, outputs, 1] that give each output's weights the length of those `wanted`."""
    one, other = (np.linalg.norm(array, axis=2, keepdims=True) for array in (wanted, weight))
    return np.where(np.minimum(one, other) > 1e-20, one / np.maximum(other, 1e-20), 1.0)
