"""Backward elimination: which inputs of some layers can leave at the least loss, those that stay fitted anew.

With H the second moments of a layer's inputs (about their means, which a bias takes) and P its inverse, removing the
inputs S from a layer of weight W and fitting the rest costs tr(W_S (P_SS)^-1 W_S^T), changes the weight to
W - W_S (P_SS)^-1 P_S and the inverse to P - P_S^T (P_SS)^-1 P_S.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edgeopt.data import Split
from edgeopt.data.feeds import feeds_for
from edgeopt.model import Model
from edgeopt.model.layerwise.moments import Moments
from edgeopt.model.layerwise.pile import pile_up
from edgeopt.model.layerwise.ridge import damped
from edgeopt.model.layerwise.rows import LayerForm, layer_form
from edgeopt.model.layerwise.segments import Segments
from edgeopt.prune.batches import BATCH, HELD_BYTES, LARGEST, affordable, empty_moments
from edgeopt.prune.criteria.scores import input_axes, reading
from edgeopt.prune.groups import Group
from edgeopt.stage import Context

__all__ = ["Readings", "eliminate", "reading_losses"]

DAMPING = 0.001
"""Of the power of each input: what few samples say of nearly dependent inputs is not to be believed to the digit."""
LOTS = 32
"""Units leave in so many lots at least, one at a time in narrower groups."""


@dataclass(frozen=True)
class _Layer:
    name: str
    entry: str
    output: str
    form: LayerForm
    weight: np.ndarray
    """[outputs, inputs]."""
    weight_name: str
    area: int
    """Columns of the matrix for each input channel."""


@dataclass
class Readings:
    """One layer's weight [outputs, inputs], inverse of its inputs' second moments, columns [units, n] of each unit."""

    weight: np.ndarray
    inverse: np.ndarray
    columns: np.ndarray
    scale: float
    """Power of the layer's output: losses are relative to it."""

    def losses(self, units: np.ndarray) -> np.ndarray:
        """float64 [units]: of each alone."""
        columns = self.columns[units]
        blocks = self.inverse[columns[:, :, None], columns[:, None, :]]
        weight = self.weight[:, columns].transpose(1, 2, 0)
        solved = np.linalg.solve(blocks, weight)
        return np.asarray((solved * weight).sum((1, 2), dtype=np.float64) / self.scale)

    def remove(self, units: np.ndarray) -> None:
        """Take these out, all together, and let the others make good what they can."""
        columns = self.columns[units].reshape(-1)
        rows = self.inverse[columns]
        solved = np.linalg.solve(rows[:, columns], rows)
        self.weight -= self.weight[:, columns] @ solved
        self.inverse -= rows.T @ solved
        self.weight[:, columns] = 0


def eliminate(readers: Sequence[Readings], units: int) -> np.ndarray:
    """float64 [units]: the loss at which each leaves, never less than that of one which left before."""
    left = np.arange(units)
    scores = np.zeros(units)
    lot = math.ceil(units / LOTS) if units > LOTS else 1
    reached = 0.0
    while len(left):
        losses = np.sum([reader.losses(left) for reader in readers], axis=0)
        order = losses.argsort(kind="stable")[:lot]
        leaving = left[order]
        for unit, loss in zip(leaving.tolist(), losses[order].tolist(), strict=True):
            reached = max(reached, loss)
            scores[unit] = reached
        for reader in readers:
            reader.remove(leaving)
        left = np.setdiff1d(left, leaving)
    return scores


def reading_losses(
    model: Model, groups: Sequence[Group], split: Split, rows: int, context: Context
) -> list[np.ndarray | None]:
    """For each group the loss at which each unit leaves; None for a group that no layer of this kind reads."""
    axes = input_axes(model)
    layers = {layer.weight_name: layer for layer in _layers(model)}
    read = [{part.name: part.index for part in reading(group, axes) if part.name in layers} for group in groups]
    last = {layer: number for number, layer in enumerate(layers)}
    waiting = {number: max(last[name] for name in some) for number, some in enumerate(read) if some}
    found: list[np.ndarray | None] = [None] * len(groups)
    moments: dict[str, Moments] = {}
    samples = split.take(np.arange(affordable(model, len(split))))
    segments = Segments(model, pile_up(feeds_for(model, samples, BATCH)))
    needed = [layer for name, layer in layers.items() if any(name in some for some in read)]
    context.progress.start("what layers read", len(needed))
    rng = np.random.default_rng(context.seed)
    for layer in needed:
        moments[layer.weight_name] = _moments(layer, segments, rows, rng)
        for number in [n for n, position in waiting.items() if position == last[layer.weight_name]]:
            del waiting[number]
            readers = [_readings(layers[name], moments[name], index) for name, index in read[number].items()]
            found[number] = eliminate(readers, len(groups[number]))
        moments = {name: kept for name, kept in moments.items() if any(name in read[n] for n in waiting)}
        context.progress.advance(1)
    return found


def _layers(model: Model) -> list[_Layer]:
    """Layers of one matrix with a weight of their own, in the order of the graph."""
    layers = []
    for node in model.graph.graph:
        weight = node.inputs[1].const_value if node.op_type in ("Conv", "Gemm", "MatMul") and node.inputs[1] else None
        if weight is None or node.inputs[0] is None or len(node.inputs[1].uses()) > 1:  # type: ignore[union-attr]
            continue
        array = weight.numpy()
        form = layer_form(ir.to_proto(node), array)
        if isinstance(form, str) or form.groups > 1:
            continue
        matrix = form.matrices(array)[0]
        if matrix.shape[1] > LARGEST:
            continue
        layers.append(
            _Layer(
                node.name or "",
                node.inputs[0].name or "",
                node.outputs[0].name or "",
                form,
                matrix,
                node.inputs[1].name or "",  # type: ignore[union-attr]
                math.prod(form.kernel),
            )
        )
    return layers


def _moments(layer: _Layer, segments: Segments, rows: int, rng: np.random.Generator) -> Moments:
    """Second moments of the layer's inputs, about their means. Moves on behind the layer."""
    moments = empty_moments(1, 0, layer.weight.shape[1])
    each = -(-rows // segments.batches)
    for values in segments.step(layer.name, [layer.entry, layer.output], limit_bytes=HELD_BYTES):
        output = values[layer.output]
        places = layer.form.places(output, each, rng)
        patches = layer.form.input_rows(values[layer.entry], places, output.shape[2:])
        moments.add(patches, np.zeros((*patches.shape[:2], 0), np.float32))
    return moments.centred()


def _readings(layer: _Layer, moments: Moments, index: np.ndarray) -> Readings:
    """For the units whose slices of the layer's input axis are `index` [units, slices]."""
    columns = (index[:, :, None] * layer.area + np.arange(layer.area)).reshape(len(index), -1)
    second = moments.xx / max(moments.rows, 1)
    weight = layer.weight.astype(second.dtype)
    power = float(((weight @ second[0]) * weight).sum(dtype=np.float64))
    return Readings(weight, np.linalg.inv(damped(second, DAMPING)[0]), columns, max(power, 1e-30))
