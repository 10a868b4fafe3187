"""Prune, prove, and when the proof fails: find the groups that are to blame, leave them alone, go on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from edgeopt.errors import StageFailed
from edgeopt.model import Model
from edgeopt.prune.equivalence import TOLERANCE, Difference, compare
from edgeopt.prune.groups import Group, Plan
from edgeopt.prune.surgery import CannotRemove, remove

__all__ = ["Proven", "prune_proven", "without"]

ROUNDS = 50


@dataclass(frozen=True, eq=False)
class Proven:
    """A pruning that passed the check."""

    model: Model
    record: list[dict[str, Any]]
    kept: np.ndarray
    plan: Plan
    difference: Difference
    refused: dict[str, str] = field(default_factory=dict)
    """Group -> why its units could not leave."""


def prune_proven(model: Model, plan: Plan, choose: Callable[[Plan], np.ndarray], *, seed: int) -> Proven:
    """Prune what `choose` picks, refusing groups that fail the check and choosing again among the rest.

    Raises StageFailed when `choose` cannot reach its target any more.
    """
    refused: dict[str, str] = {}
    for _ in range(ROUNDS):
        kept = _choose(choose, plan, refused)
        attempt = _Attempt(model, plan, seed)
        outcome = attempt.run(kept)
        if isinstance(outcome, Proven):
            return replace(outcome, refused=refused)
        bad = attempt.culprits(kept, outcome)
        refused |= {group.name: _reason(outcome) for group in bad}
        plan = without(plan, bad)
    raise StageFailed("no pruning passes the masked-equivalence check", where="prune", fix="see the pinned layers")


def without(plan: Plan, groups: Sequence[Group]) -> Plan:
    """The plan in which these groups stay whole."""
    dropped = np.zeros(plan.count, bool)
    for group in groups:
        dropped[group.units] = True
    number = np.append(np.where(dropped, -1, np.cumsum(~dropped) - 1), -1)
    left = tuple(replace(group, units=number[group.units]) for group in plan.groups if not dropped[group.units].any())
    return replace(plan, unit_of=number[plan.unit_of], groups=left)


@dataclass
class _Attempt:
    model: Model
    plan: Plan
    seed: int

    def run(self, kept: np.ndarray) -> Proven | Difference | CannotRemove:
        try:
            pruned, record = remove(self.model, self.plan, kept)
        except CannotRemove as error:
            return error
        difference = compare(self.model, pruned, self.plan, kept, self.seed)
        if difference.relative > TOLERANCE:
            return difference
        return Proven(pruned, record, kept, self.plan, difference)

    def culprits(self, kept: np.ndarray, failure: Difference | CannotRemove) -> list[Group]:
        """The groups that fail: those the surgery names, else found by halving."""
        pruned = [group for group in self.plan.groups if not kept[group.units].all()]
        if isinstance(failure, CannotRemove):
            return [group for group in pruned if np.isin(group.units, failure.units).any()] or pruned
        suspects = [group for group in pruned if self._touches(group, failure.value)]
        rest = [group for group in pruned if group not in suspects]
        if suspects and self._passes(rest, kept):
            return self._halve(suspects, kept)
        return self._halve(pruned, kept)

    def _halve(self, groups: list[Group], kept: np.ndarray) -> list[Group]:
        """Groups that fail, alone or (when no half fails) together."""
        if self._passes(groups, kept):
            return []
        if len(groups) == 1:
            return groups
        middle = len(groups) // 2
        return self._halve(groups[:middle], kept) + self._halve(groups[middle:], kept) or groups

    def _passes(self, groups: list[Group], kept: np.ndarray) -> bool:
        """Whether pruning only these groups passes."""
        only = self.plan.everything()
        for group in groups:
            only[group.units] = kept[group.units]
        return isinstance(self.run(only), Proven)

    def _touches(self, group: Group, value: str) -> bool:
        """Whether the group owns slices of the weights of the node that computes `value`."""
        node = next((n for n in self.model.graph.graph if any(o.name == value for o in n.outputs)), None)
        names = {v.name for v in node.inputs if v is not None} if node is not None else set()
        return any(part.name in names for part in group.slices)


def _choose(choose: Callable[[Plan], np.ndarray], plan: Plan, refused: dict[str, str]) -> np.ndarray:
    try:
        return choose(plan)
    except StageFailed as error:
        if not refused:
            raise
        names = ", ".join(sorted(refused)[:5])
        raise StageFailed(
            f"{error.found}; the masked-equivalence check refused to narrow {names}", where=error.where, fix=error.fix
        ) from error


def _reason(failure: Difference | CannotRemove) -> str:
    if isinstance(failure, CannotRemove):
        return failure.reason
    if failure.found:
        return failure.found
    return f"the pruned model differs from the masked one by {failure.relative:.1e} at {failure.value!r}"
