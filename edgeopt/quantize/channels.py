"""What a tensor's channels hold, and how much rounding error a layer that reads it is to expect.

Transforms that trade the ranges of channels against one another (`equalize.py`, `smooth.py`) choose by this estimate.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from edgeopt.model.layerwise.pile import IN_MEMORY, pile_up
from edgeopt.model.layerwise.segments import Segments
from edgeopt.model.model import Model
from edgeopt.quantize.memory import predict_watching
from edgeopt.quantize.observe import suggest_batch
from edgeopt.quantize.samples import Samples
from edgeopt.stage import Context
from edgeopt.tiers import Tier

__all__ = ["FURTHEST", "Channels", "Rounding", "least_bytes", "look", "rounding_of"]

FURTHEST = 1e3
"""Largest ratio between the factors of one tensor's channels; a dead channel would ask for any."""


@dataclass(frozen=True)
class Channels:
    """What the channels of a tensor held, each float64 [channels]."""

    low: np.ndarray
    high: np.ndarray
    square: np.ndarray
    """mean of x^2"""

    @property
    def largest(self) -> np.ndarray:
        """max|x|"""
        return np.asarray(np.maximum(-self.low, self.high))

    def scaled(self, factors: np.ndarray) -> Channels:
        """Of the tensor times `factors` (positive)."""
        return Channels(self.low * factors, self.high * factors, self.square * factors**2)


@dataclass(frozen=True)
class Rounding:
    """How a tier rounds."""

    per_tensor: bool
    """One scale for a whole weight."""
    symmetric: bool
    """Activations around zero."""

    def step(self, seen: Channels) -> float:
        """Of 8-bit integers for the tensor, nothing clipped."""
        if self.symmetric:
            return float(seen.largest.max(initial=0.0)) / 127
        return float(max(seen.high.max(initial=0.0), 0) - min(seen.low.min(initial=0.0), 0)) / 255

    def error_behind(self, seen: Channels, columns: np.ndarray) -> float:
        """Expected squared error (times 12) of a layer's output, summed over its channels, that comes from rounding
        its input `seen` and its weight `columns` [groups, outputs of a group, inputs of a group, kernel]."""
        groups, _, _, kernel = columns.shape
        power = np.square(columns, dtype=np.float64).sum()
        peak = np.abs(columns).max(axis=(2, 3)).astype(np.float64)
        steps = np.broadcast_to(peak.max() if self.per_tensor else peak, peak.shape) / 127
        energy = seen.square.reshape(groups, -1).sum(axis=1) * kernel
        return float(self.step(seen) ** 2 * power + (np.square(steps).sum(axis=1) * energy).sum())


def rounding_of(tier: Tier | None) -> Rounding:
    """Of a tier; without one, onnxruntime's."""
    if tier is None:
        return Rounding(per_tensor=False, symmetric=False)
    return Rounding(tier.placement.weights == "per_tensor", tier.placement.activations == "symmetric")


def least_bytes(model: Model, nodes: Collection[str], samples: Samples) -> int:
    """Memory that `look` takes at least, beside what the process holds; 0 where there is nothing to look at."""
    tensors = _outputs(model, nodes)
    return predict_watching(model, tensors, samples) if tensors else 0


def look(
    model: Model, axes: dict[str, int], samples: Samples, context: Context, room: float = math.inf
) -> dict[str, Channels]:
    """Node name -> what the channels of its first output held; `axes` names the nodes and their channel axes.

    Memory: these outputs of a few samples at a time, fewer where `room` (bytes) is small.
    """
    tensors = _outputs(model, axes)
    if not tensors:
        return {}
    size = suggest_batch(model, tuple(tensors))
    while size > 1 and predict_watching(model, tensors, samples, size) > room:
        size //= 2
    in_memory = round(min(IN_MEMORY, room / 64))
    segments = Segments(model, pile_up(samples.fitting(model, size), in_memory), in_memory)
    tallies = {name: _Tally() for name in tensors.values()}
    for values in context.progress.track(segments.run(tuple(tensors)), "looking at channels", segments.batches):
        for tensor, name in tensors.items():
            tallies[name].add(values[tensor], axes[name])
    return {name: tally.channels for name, tally in tallies.items()}


def _outputs(model: Model, nodes: Collection[str]) -> dict[str, str]:
    """Name of the first output -> name of the node."""
    return {node.outputs[0].name or "": node.name or "" for node in model.graph.graph if node.name in nodes}


class _Tally:
    """Running extremes and sums of a tensor's channels."""

    def __init__(self) -> None:
        self.low, self.high, self.squares = np.array(np.inf), np.array(-np.inf), np.array(0.0)
        self.count = 0

    def add(self, batch: np.ndarray, axis: int) -> None:
        rows = np.moveaxis(batch, axis, 0).reshape(batch.shape[axis], -1)
        self.low = np.minimum(self.low, rows.min(axis=1))
        self.high = np.maximum(self.high, rows.max(axis=1))
        self.squares = self.squares + np.einsum("ij,ij->i", rows, rows)
        self.count += rows.shape[1]

    @property
    def channels(self) -> Channels:
        return Channels(self.low, self.high, self.squares / self.count)
