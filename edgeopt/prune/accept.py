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
RUNS = 60
"""Checks that finding the culprits may take in all; after them, all that is under suspicion stays."""


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
    runs = 0
    for _ in range(ROUNDS):
        kept = _choose(choose, plan, refused)
        attempt = _Attempt(model, plan, seed, RUNS - runs)
        outcome = attempt.run(kept)
        if isinstance(outcome, Proven):
            return replace(outcome, refused=refused)
        bad = attempt.culprits(kept, outcome)
        refused |= {group.name: _reason(outcome) for group in bad}
        plan, runs = without(plan, bad), runs + attempt.runs
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
    most: int
    """Runs after which groups are no longer told apart."""
    runs: int = 0

    def run(self, kept: np.ndarray) -> Proven | Difference | CannotRemove:
        self.runs += 1
        try:
            pruned, record = remove(self.model, self.plan, kept)
        except CannotRemove as error:
            return error
        difference = compare(self.model, pruned, self.plan, kept, self.seed)
        if difference.relative > TOLERANCE:
            return difference
        return Proven(pruned, record, kept, self.plan, difference)

    def culprits(self, kept: np.ndarray, failure: Difference | CannotRemove) -> list[Group]:
        """The groups that fail: those the surgery names, those at the node where it shows, else found by halving."""
        pruned = [group for group in self.plan.groups if not kept[group.units].all()]
        if isinstance(failure, CannotRemove):
            return [group for group in pruned if np.isin(group.units, failure.units).any()] or self._halve(pruned, kept)
        suspects = self._at(pruned, failure.value)
        if suspects and not self._passes(suspects, kept):
            return self._halve(suspects, kept)
        rest = [group for group in pruned if group not in suspects]
        if suspects and self._passes(rest, kept):
            return suspects
        return self._halve(pruned, kept)

    def _halve(self, groups: list[Group], kept: np.ndarray) -> list[Group]:
        """Of groups that fail together: those that fail alone, or (when no half fails) all."""
        if len(groups) == 1 or self.runs >= self.most:
            return groups
        middle = len(groups) // 2
        halves = [half for half in (groups[:middle], groups[middle:]) if not self._passes(half, kept)]
        return [group for half in halves for group in self._halve(half, kept)] or groups

    def _passes(self, groups: list[Group], kept: np.ndarray) -> bool:
        """Whether pruning only these groups passes."""
        only = self.plan.everything()
        for group in groups:
            only[group.units] = kept[group.units]
        return isinstance(self.run(only), Proven)

    def _at(self, groups: list[Group], value: str) -> list[Group]:
        """Those whose units lie along what the node that computes `value` reads or gives."""
        node = next((n for n in self.model.graph.graph if any(o.name == value for o in n.outputs)), None)
        if node is None:
            return []
        labels = self.plan.trace.labels
        near = [block.ids.ravel() for v in (*node.inputs, *node.outputs) if v for block in labels.get(v.name or "", ())]
        units = np.unique(self.plan.unit_of[np.concatenate([*near, np.zeros(0, np.int64)])])
        return [group for group in groups if np.isin(group.units, units).any()]


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
