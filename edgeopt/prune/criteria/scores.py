"""What criteria share: a unit's weights on the side that makes it and on the side that reads it, and one scale."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from edgeopt.model import Model
from edgeopt.prune.groups import Group, Slices

__all__ = ["Weights", "input_axes", "l2", "normalized", "or_l2", "producing", "reading", "sum_over"]

Weights = Mapping[str, np.ndarray]


def producing(group: Group, weights: Weights) -> list[Slices]:
    """The matrices and kernels that compute the group's channels; failing these, everything it owns."""
    parts = [part for part in group.slices if part.produces and weights[part.name].ndim > 1]
    return parts or list(group.slices)


def reading(group: Group, axes: set[tuple[str, int]]) -> list[Slices]:
    """The matrices and kernels that read the group's channels; `axes` is `input_axes(model)`."""
    return [part for part in group.slices if (part.name, part.axis) in axes]


def input_axes(model: Model) -> set[tuple[str, int]]:
    """(weight, axis) pairs along which a layer's weight meets what it reads.

    A convolution that loses whole groups (a depthwise one) is not among them: it passes its channels on.
    """
    found: set[tuple[str, int]] = set()
    for node in model.graph.graph:
        shapes = {
            place: value.const_value.shape.numpy()
            for place, value in enumerate(node.inputs)
            if value is not None and value.const_value is not None
        }
        names = {place: node.inputs[place].name or "" for place in shapes}  # type: ignore[union-attr]
        if node.op_type == "Conv" and 1 in shapes:
            found.add((names[1], 1))
        elif node.op_type == "ConvTranspose" and 1 in shapes and node.attributes.get_int("group", 1) == 1:
            found.add((names[1], 0))
        elif node.op_type == "Gemm" and 1 in shapes:
            found.add((names[1], 1 if node.attributes.get_int("transB", 0) else 0))
        elif node.op_type == "MatMul":
            found |= {(names[place], len(shapes[place]) - (1 if place == 0 else 2)) for place in shapes}
    return found


def sum_over(parts: Sequence[Slices], weights: Weights, measure: np.ufunc, units: int) -> np.ndarray:
    """Sum of `measure` over each unit's slices, float64 [units]."""
    total = np.zeros(units)
    for part in parts:
        array = weights[part.name]
        others = tuple(axis for axis in range(array.ndim) if axis != part.axis)
        along = measure(array).sum(axis=others, dtype=np.float64)
        total += along[part.index].sum(axis=1)
    return total


def l2(group: Group, weights: Weights) -> np.ndarray:
    """Euclidean norm of all that produces each unit, float64 [units]."""
    norms: np.ndarray = np.sqrt(sum_over(producing(group, weights), weights, np.square, len(group)))
    return norms


def or_l2(model: Model, groups: Sequence[Group], found: Sequence[np.ndarray | None]) -> tuple[list[np.ndarray], str]:
    """Normalised scores, L2 where a group has none, and the names of these groups as a phrase ("" for none)."""
    weights = model.weights()
    without = [group.name for group, score in zip(groups, found, strict=True) if score is None]
    scores = [
        normalized(l2(group, weights) if score is None else score) for group, score in zip(groups, found, strict=True)
    ]
    more = f" and {len(without) - 3} more" if len(without) > 3 else ""
    return scores, ", ".join(without[:3]) + more


def normalized(scores: np.ndarray) -> np.ndarray:
    """Scores with a mean of 1, so that groups can be ranked against one another; all 1 where all are 0."""
    mean = scores.mean()
    return scores / mean if mean > 0 else np.ones_like(scores)
