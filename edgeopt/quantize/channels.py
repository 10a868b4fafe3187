"""What a tensor's channels hold, and how much rounding error a layer that reads it is to expect.

Transforms that trade the ranges of channels against one another (`equalize.py`, `smooth.py`) choose by this estimate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgeopt.model.model import Model
from edgeopt.quantize.samples import Samples
from edgeopt.quantize.walk import Batches, Walk
from edgeopt.stage import Context
from edgeopt.tiers import Tier

__all__ = ["FURTHEST", "Channels", "Rounding", "look", "rounding_of"]

BATCH = 8
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

    @staticmethod
    def of(batches: Batches, axis: int) -> Channels:
        """Of a tensor's batches, with its channels along `axis`."""
        rows = [np.moveaxis(x, axis, 0).reshape(x.shape[axis], -1) for x in batches]
        count = sum(row.shape[1] for row in rows)
        return Channels(
            low=np.min([row.min(axis=1) for row in rows], axis=0).astype(np.float64),
            high=np.max([row.max(axis=1) for row in rows], axis=0).astype(np.float64),
            square=np.asarray(
                np.sum([np.einsum("ij,ij->i", row, row) for row in rows], axis=0, dtype=np.float64) / count
            ),
        )


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


def look(
    model: Model, axes: dict[str, int], samples: Samples, context: Context, label: str = "looking at channels"
) -> dict[str, Channels]:
    """Node name -> what the channels of its first output held; `axes` names the nodes and their channel axes."""
    order: Sequence[str] = [node.name or "" for node in model.graph.graph if node.name in axes]
    if not order:
        return {}
    walk = Walk(model, order, samples.batches(BATCH))
    return {name: Channels.of(walk.advance(), axes[name]) for name in context.progress.track(order, label, len(order))}
