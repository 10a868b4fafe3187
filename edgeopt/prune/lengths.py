"""How long each dim of each value is, as a function of how many units each group keeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgeopt.prune.groups import Plan

__all__ = ["Form", "Lengths"]


@dataclass(frozen=True)
class Form:
    """`fixed` + the sum over groups of slices per unit * units kept."""

    fixed: float
    slices: tuple[tuple[int, float], ...] = ()
    """(number of the group, slices that one unit owns along the dim)."""

    def at(self, counts: Sequence[int] | np.ndarray) -> int:
        """Length when group g keeps `counts[g]` units; at least 1."""
        return max(1, round(self.fixed + sum(per * float(counts[group]) for group, per in self.slices)))


class Lengths:
    """Forms of every dim of a model's values.

    `shapes` are those of one sample; dims that lose nothing have their length there. Units of one group own equally
    many slices of every weight; where an activation has unequal shares of them (half of a Split), a form is their mean.
    """

    def __init__(self, plan: Plan, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self._plan = plan
        self._shapes = shapes
        self._group_of = np.zeros(plan.count, np.int64)
        for number, group in enumerate(plan.groups):
            self._group_of[group.units] = number
        self.full = np.array([len(group) for group in plan.groups], np.int64)
        """Units of each group, all kept."""

    def shape(self, name: str) -> tuple[Form, ...] | None:
        """A form for each dim; None where the shape is not known."""
        shape = self._shapes.get(name)
        if shape is None:
            return None
        forms = [Form(float(size)) for size in shape]
        for block in self._plan.trace.labels.get(name, ()):
            for axis, dim in enumerate(block.dims):
                line = np.moveaxis(block.ids, axis, 0).reshape(block.ids.shape[axis], -1)[:, 0]
                forms[dim] = self._form(line)
        return tuple(forms)

    def counts(self, kept: np.ndarray) -> np.ndarray:
        """Units that each group keeps, int64 [groups]."""
        return np.array([int(kept[group.units].sum()) for group in self._plan.groups], np.int64)

    def _form(self, ids: np.ndarray) -> Form:
        units = self._plan.unit_of[ids]
        groups, slices = np.unique(self._group_of[units[units >= 0]], return_counts=True)
        pairs = zip(groups.tolist(), slices.tolist(), strict=True)
        return Form(float((units < 0).sum()), tuple((g, n / len(self._plan.groups[g])) for g, n in pairs))
