"""How unlike the others a filter is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from edgeopt.model import Model
from edgeopt.prune.criteria.scores import Weights, normalized, producing
from edgeopt.prune.groups import Group, Slices
from edgeopt.spec import Spec
from edgeopt.stage import Context

__all__ = ["GeometricMedian"]


class GeometricMedian(Spec):
    """Sum of the distances from what produces the unit to what produces each other unit of its group (He et al., FPGM,
    arXiv 1811.00250): the filters nearest to the geometric median of all are those that others can stand in for.
    """

    kind: Literal["geometric_median"] = "geometric_median"

    def scores(self, model: Model, groups: Sequence[Group], context: Context) -> list[np.ndarray]:
        """float64 [units] for each group; larger is more important. Memory: the group's weights and units squared."""
        weights = model.weights()
        return [normalized(_distances(group, weights)) for group in groups]


def _distances(group: Group, weights: Weights) -> np.ndarray:
    """Each unit's Euclidean distances to all others, summed."""
    squares = np.zeros((len(group), len(group)))
    for part in producing(group, weights):
        rows = _rows(part, weights)
        power = np.square(rows).sum(axis=1)
        squares += power[:, None] + power - 2 * (rows @ rows.T)
    np.fill_diagonal(squares, 0)
    total: np.ndarray = np.sqrt(np.maximum(squares, 0)).sum(axis=1)
    return total


def _rows(part: Slices, weights: Weights) -> np.ndarray:
    """float64 [units, everything in the unit's slices]."""
    array = np.moveaxis(weights[part.name], part.axis, 0)
    rows: np.ndarray = array[part.index].reshape(len(part.index), -1).astype(np.float64)
    return rows
