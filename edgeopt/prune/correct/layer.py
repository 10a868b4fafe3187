"""One layer's fit: from the moments of its rows to a new weight and constant."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx
import torch
from torch import Tensor

from edgeopt.model.layerwise.moments import Moments
from edgeopt.model.layerwise.ridge import ridge
from edgeopt.model.layerwise.rows import LayerForm, layer_form
from edgeopt.model.layerwise.segments import Segments
from edgeopt.prune.correct.tail import SMALLEST_GAIN, Constants, Tail, tail_of

__all__ = ["LARGEST", "LayerFit", "layer_fit"]

STRENGTHS = (float("inf"), 10.0, 1.0, 0.1, 0.01, 1e-3, 1e-4, 1e-5)
"""How much a weight's change is charged, against the power of its input. Held-out rows choose."""
LARGEST = 8192
"""Inputs of a layer up to which it is fitted: 0.5 GB of second moments."""


@dataclass
class LayerFit:
    """A layer whose rows are being counted. Weight [groups, outputs, inputs] and constant are as its readers see it."""

    form: LayerForm
    original: np.ndarray
    """The weight as the operator lays it out."""
    tail: Tail
    weight: Tensor = field(init=False)
    gain: Tensor = field(init=False)
    constant: Tensor = field(init=False)
    fit: Moments = field(init=False)
    held_out: Moments = field(init=False)
    signal: float = 0.0

    def __post_init__(self) -> None:
        plain = torch.from_numpy(self.form.matrices(self.original).astype(np.float64))
        self.gain = torch.from_numpy(self.tail.gain).reshape(*plain.shape[:2], 1)
        self.constant = torch.from_numpy(self.tail.constant).reshape(plain.shape[:2])
        self.weight = plain * self.gain
        groups, outputs, inputs = plain.shape
        self.fit, self.held_out = (Moments.empty(groups, outputs, inputs, torch.float64) for _ in range(2))

    def count(self, x: np.ndarray, target: np.ndarray, places: np.ndarray, *, held_out: bool) -> None:
        """Count the layer's input `x` and the output wanted behind its tail, as the graph has them, at `places`."""
        rows = _tensor(self.form.input_rows(x, places, target.shape[2:]))
        wanted = _tensor(self.form.output_rows(target, places))
        self.signal += float(wanted.square().sum(dtype=torch.float64))
        error = wanted.double() - rows.double() @ self.weight.mT - self.constant[:, None]
        (self.held_out if held_out else self.fit).add(rows, error)

    def solve(self) -> tuple[np.ndarray, dict[str, np.ndarray], float, float]:
        """The new weight, as the operator lays it out, the tail's new constants, and the error over all rows before and
        after, relative to the target. Uses the moments up."""
        strength = self._choose_strength()
        moments = self.fit
        moments.merge(self.held_out)
        before = float(moments.ee.sum())
        change = self._change(moments, strength)
        shift = self._shift(moments, change)
        after = float(moments.error(change, shift).sum())
        open_ = self.gain.abs() > SMALLEST_GAIN * self.gain.abs().max().clamp_min(1e-30)
        plain = torch.from_numpy(self.form.matrices(self.original).astype(np.float64))
        weight = torch.where(open_, (self.weight + change) / torch.where(open_, self.gain, 1.0), plain)
        mean, variance = _outputs(moments, weight)
        constants = self.tail.changed(_flat(self.constant + shift), mean, variance)
        signal = max(self.signal, 1e-30)
        return self.form.weight(weight.numpy(), self.original.shape), constants, before / signal, after / signal

    def _choose_strength(self) -> float:
        """The ridge that is best on held-out rows, looked for from the strongest on; none without such rows."""
        best, chosen = float("inf"), STRENGTHS[0]
        for strength in STRENGTHS if self.held_out.rows else ():
            change = self._change(self.fit, strength)
            error = float(self.held_out.error(change, self._shift(self.fit, change)).sum())
            if error >= best:
                break
            best, chosen = error, strength
        return chosen

    def _change(self, moments: Moments, strength: float) -> Tensor:
        if strength == float("inf"):
            return torch.zeros_like(self.weight)
        wanted = moments.centred() if self.tail.fits else moments
        return ridge(wanted.xx, wanted.ex, strength)

    def _shift(self, moments: Moments, change: Tensor) -> Tensor:
        """float64 [groups, outputs]: what the constant gains when the weight changes so; 0 where it cannot."""
        if not self.tail.fits:
            return torch.zeros_like(self.constant)
        return (moments.e - (change @ moments.x[:, :, None])[:, :, 0]) / max(moments.rows, 1)


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


def _outputs(moments: Moments, weight: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of `weight @ x` over the rows, float64 [outputs] each."""
    rows = max(moments.rows, 1)
    mean = (weight @ moments.x[:, :, None])[:, :, 0] / rows
    variance = ((weight @ moments.centred().xx) * weight).sum(2) / rows
    return _flat(mean), _flat(variance.clamp_min(0))


def _flat(tensor: Tensor) -> np.ndarray:
    return np.asarray(tensor.reshape(-1).numpy())


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(array, np.float32, order="C"))
