"""Widths for a latency: again and again, narrow the group whose next step saves the most time for what it loses.

What a group loses, by the ranking: `local` counts the logarithm of the share of its scores that stays, once for each
layer that makes its channels, so that the product over all layers is kept large, and no group is emptied; `global`
counts the scores that leave. A step goes to the next multiple, or as far as the second next multiple of the block: a
width that is no faster is stepped over, and aligned widths are found because they are faster.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgeopt.prune.choose import LEAST, Rule, Unreachable, kept_units, round_up, step_of
from edgeopt.prune.groups import Group, Plan
from edgeopt.prune.latency import BLOCK, Table

__all__ = ["losses_of", "narrow"]

FINEST = 64
"""Steps from full width to nothing, at most: a wide group goes by several multiples at once."""


def narrow(
    plan: Plan, scores: Sequence[np.ndarray], table: Table, most_ms: float, rule: Rule, multiple: int, start: np.ndarray
) -> np.ndarray:
    """bool [units], within `start`, that takes at most `most_ms` by the table. Raises Unreachable."""
    counts = np.array([int(start[group.units].sum()) for group in plan.groups], np.int64)
    search = _Search(plan, losses_of(plan, scores, rule), table, rule, multiple, counts)
    reached = search.down(most_ms)
    if reached:
        search.up(most_ms)
    kept = kept_units(plan, scores, search.counts.tolist())
    if not reached:
        raise Unreachable(kept)
    return kept


def losses_of(plan: Plan, scores: Sequence[np.ndarray], rule: Rule) -> list[np.ndarray]:
    """What is lost when k units of each group stay, float64 [units + 1]."""
    leaving = [np.concatenate([[0.0], np.cumsum(np.sort(score))])[::-1] for score in scores]
    if rule == "global":
        return leaving
    stays = [np.maximum(1 - lost / max(float(lost[0]), 1e-30), 1e-12) for lost in leaving]
    weights = [float(score.mean()) * _layers(plan, group) for group, score in zip(plan.groups, scores, strict=True)]
    return [-weight * np.log(share) for weight, share in zip(weights, stays, strict=True)]


def _layers(plan: Plan, group: Group) -> int:
    """Layers that make the group's channels: a stream that several blocks add to is lost to all of them."""
    return max(1, sum(part.produces and len(plan.trace.shapes.get(part.name, ())) > 1 for part in group.slices))


@dataclass(eq=False)
class _Search:
    plan: Plan
    losses: list[np.ndarray]
    table: Table
    rule: Rule
    multiple: int
    counts: np.ndarray

    def __post_init__(self) -> None:
        self.most = self.counts.copy()
        self.times = [self.table.layer_ms(index, self.counts) for index in range(len(self.table.layers))]

    def total_ms(self) -> float:
        return self.table.total_ms(sum(self.times))

    def down(self, most_ms: float) -> bool:
        """Narrow until `most_ms` is reached; False where nothing is left to narrow."""
        moves = {group: self._best(group) for group in range(len(self.counts))}
        while self.total_ms() > most_ms:
            group, (gain, count) = max(moves.items(), key=lambda item: item[1][0], default=(0, (0.0, 0)))
            if gain <= 0:
                return False
            self._set(group, count)
            for other in self._neighbours(group):
                moves[other] = self._best(other)
        return True

    def up(self, most_ms: float) -> None:
        """Widen what fits into the time that is left, the most loss undone for its time first."""
        while True:
            moves = [(group, count) for group in range(len(self.counts)) for count in self._wider(group)]
            priced = [(self._saved(group, count), group, count) for group, count in moves]
            room = most_ms - self.total_ms()
            fitting = [
                (self._lost(group, count) / min(saved, -1e-9), group, count)
                for saved, group, count in priced
                if self.table.total_ms(-saved) <= room
            ]
            if not fitting:
                return
            _, group, count = max(fitting)
            self._set(group, count)

    def _best(self, group: int) -> tuple[float, int]:
        """(time saved over what is lost, count) of the group's best step down; (0, ...) where there is none."""
        found = [(0.0, int(self.counts[group]))]
        for count in self._narrower(group):
            saved = self._saved(group, count)
            found.append((saved / max(self._lost(group, count), 1e-12), count))
        return max(found)

    def _saved(self, group: int, count: int) -> float:
        """Milliseconds of layers, when the group keeps `count` units."""
        tried = self.counts.copy()
        tried[group] = count
        return sum(self.times[index] - self.table.layer_ms(index, tried) for index in self.table.touching(group))

    def _lost(self, group: int, count: int) -> float:
        return float(self.losses[group][count] - self.losses[group][self.counts[group]])

    def _set(self, group: int, count: int) -> None:
        self.counts[group] = count
        for index in self.table.touching(group):
            self.times[index] = self.table.layer_ms(index, self.counts)

    def _neighbours(self, group: int) -> set[int]:
        """Groups that have a layer in common with this one, itself included."""
        layers = (self.table.layers[index] for index in self.table.touching(group))
        return {group} | {other for layer in layers for form in layer.variables for other, _ in form.slices}

    def _narrower(self, group: int) -> list[int]:
        own, now = self.plan.groups[group], int(self.counts[group])
        least = round_up(own, math.ceil(LEAST * len(own)) if self.rule == "global" else 1, self.multiple)
        found = set()
        for step in _steps(own, self.multiple):
            below = (now - 1) // step * step
            found |= {below, below - step}
        return sorted(count for count in found if least <= count < now)

    def _wider(self, group: int) -> list[int]:
        own, now = self.plan.groups[group], int(self.counts[group])
        above = {(now // step + 1) * step for step in _steps(own, self.multiple)}
        return sorted({min(count, int(self.most[group])) for count in above} - {now})


def _steps(group: Group, multiple: int) -> list[int]:
    """Units that make up the multiple, doublings of it up to the block, and in wide groups several blocks."""
    finest = len(group) // FINEST
    largest = max(step_of(group, multiple), step_of(group, BLOCK))
    steps = [step_of(group, multiple)]
    while steps[-1] < largest:
        steps.append(steps[-1] * 2)
    kept = [step for step in steps if step >= finest]
    return kept or [steps[-1] * max(1, round(finest / steps[-1]))]
