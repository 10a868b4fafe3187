"""Which units of a group matter least.

A criterion is one Spec here with a `scores` method; the union at the end is the only list of them. Scores are
normalised to a mean of 1 within each group, so that groups can be ranked against one another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from edgeopt.model import Model
from edgeopt.prune.groups import Group, Slices
from edgeopt.spec import Spec
from edgeopt.stage import Context

__all__ = ["L1", "L2", "Criterion", "Random"]

Weights = Mapping[str, np.ndarray]


class L2(Spec):
    """Euclidean norm of everything that produces the unit's channels (Li et al., arXiv 1608.08710, per group)."""

    kind: Literal["l2"] = "l2"

    def scores(self, model: Model, groups: Sequence[Group], context: Context) -> list[np.ndarray]:
        """float64 [units] for each group; larger is more important."""
        weights = model.weights()
        return [_normalized(np.sqrt(_sum(group, weights, np.square))) for group in groups]


class L1(Spec):
    """Sum of the absolute weights that produce the unit's channels."""

    kind: Literal["l1"] = "l1"

    def scores(self, model: Model, groups: Sequence[Group], context: Context) -> list[np.ndarray]:
        """float64 [units] for each group; larger is more important."""
        weights = model.weights()
        return [_normalized(_sum(group, weights, np.abs)) for group in groups]


class Random(Spec):
    """Chance, from the run's seed: what another criterion has to beat."""

    kind: Literal["random"] = "random"

    def scores(self, model: Model, groups: Sequence[Group], context: Context) -> list[np.ndarray]:
        """float64 [units] for each group."""
        rng = np.random.default_rng(context.seed)
        return [_normalized(rng.random(len(group)) + 0.5) for group in groups]


Criterion = Annotated[L2 | L1 | Random, Field(discriminator="kind")]


def producing(group: Group, weights: Weights) -> list[Slices]:
    """The matrices and kernels that compute the group's channels; failing these, everything it owns."""
    parts = [part for part in group.slices if part.produces and weights[part.name].ndim > 1]
    return parts or list(group.slices)


def _sum(group: Group, weights: Weights, measure: np.ufunc) -> np.ndarray:
    """Sum of `measure` over each unit's slices, float64 [units]."""
    total = np.zeros(len(group))
    for part in producing(group, weights):
        array = weights[part.name]
        others = tuple(axis for axis in range(array.ndim) if axis != part.axis)
        along = measure(array).sum(axis=others, dtype=np.float64)
        total += along[part.index].sum(axis=1)
    return total


def _normalized(scores: np.ndarray) -> np.ndarray:
    mean = scores.mean()
    return scores / mean if mean > 0 else np.ones_like(scores)
