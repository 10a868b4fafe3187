"""Which units stay: the best of each group, in widths that kernels like, as many as the limits allow."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np

from edgeopt.prune.cost import Cost
from edgeopt.prune.groups import Group, Plan

__all__ = ["LEAST", "Rule", "Unreachable", "choose", "kept_units", "round_up", "step_of"]

Rule = Literal["local", "global"]
"""How groups compare: each loses the same share, or what scores least leaves whatever group it is in."""
STEPS = 18
"""Halvings of the ratio: finer than one unit of a group of a hundred thousand."""
LEAST = 0.1
"""Global ranking leaves every group this share: a layer whose scores are all low would vanish."""


class Unreachable(Exception):
    """Even the narrowest choice, `kept`, costs more."""

    def __init__(self, kept: np.ndarray) -> None:
        self.kept = kept
        super().__init__("the narrowest choice is beyond the limits")


def choose(
    plan: Plan,
    scores: Sequence[np.ndarray],
    limits: Mapping[str, float],
    cost: Cost,
    rule: Rule,
    multiple: int,
) -> np.ndarray:
    """bool [units], the fewest removals within the limits, with widths rounded up to `multiple`.

    `limits`: quantity of `cost` -> the fraction of it that may stay. Raises Unreachable.
    """
    counts = {"local": _local, "global": _global}[rule]

    def kept_at(ratio: float) -> np.ndarray:
        wanted = counts(plan.groups, scores, ratio)
        return kept_units(
            plan, scores, [round_up(g, count, multiple) for g, count in zip(plan.groups, wanted, strict=True)]
        )

    def reached(kept: np.ndarray) -> bool:
        left = cost.fractions(kept, limits)
        return all(left[name] <= limit + 1e-9 for name, limit in limits.items())

    wider, best = _search(kept_at, reached)
    importance = _importance(plan, scores)
    best = _give_back(wider, best, plan, reached, importance)
    if "ram" in limits:  # a peak is made by a few layers only: the others need not be narrow
        best = _widen(best, plan, scores, reached, multiple)
    return _fill(best, plan, scores, reached, multiple) if multiple > 1 else best


def kept_units(plan: Plan, scores: Sequence[np.ndarray], counts: Sequence[int]) -> np.ndarray:
    """bool [units]: the `counts[g]` best of each group, and of every dim one at least (one half of a Split, say)."""
    kept = plan.everything()
    for group, score, count in zip(plan.groups, scores, counts, strict=True):
        kept[group.units[np.argsort(score, kind="stable")[: len(group) - count]]] = False
    return _leave_one(kept, plan.lines, _importance(plan, scores))


def step_of(group: Group, multiple: int) -> int:
    """Units that make up a multiple of channels."""
    return multiple // math.gcd(multiple, group.channels_per_unit)


def round_up(group: Group, count: int, multiple: int) -> int:
    """Units to keep so that the channels are a multiple, and one multiple at least; narrow groups stay as they are."""
    step = step_of(group, multiple)
    return min(len(group), max(1, math.ceil(count / step)) * step)


def _importance(plan: Plan, scores: Sequence[np.ndarray]) -> np.ndarray:
    """Score of every unit, float64 [units]."""
    importance = np.zeros(plan.count)
    for group, score in zip(plan.groups, scores, strict=True):
        importance[group.units] = score
    return importance


def _search(
    kept_at: Callable[[float], np.ndarray], reached: Callable[[np.ndarray], bool]
) -> tuple[np.ndarray, np.ndarray]:
    """What is kept just before and just after the smallest ratio that reaches the limits, by bisection."""
    low, high = 0.0, 1.0
    wider, best = kept_at(low), kept_at(high)
    if not reached(best):
        raise Unreachable(best)
    for _ in range(STEPS):
        middle = (low + high) / 2
        kept = kept_at(middle)
        if reached(kept):
            high, best = middle, kept
        else:
            low, wider = middle, kept
    return wider, best


def _give_back(
    wider: np.ndarray, best: np.ndarray, plan: Plan, reached: Callable[[np.ndarray], bool], importance: np.ndarray
) -> np.ndarray:
    """Groups of equal size lose a multiple at the same ratio: give it back to all that the limits allow.

    Those whose units at stake matter most come first.
    """
    units = [group.units[wider[group.units] & ~best[group.units]] for group in plan.groups]
    for some in sorted((some for some in units if len(some)), key=lambda some: -float(importance[some].mean())):
        more = best.copy()
        more[some] = True
        best = more if reached(more) else best
    return best


def _widen(
    kept: np.ndarray, plan: Plan, scores: Sequence[np.ndarray], reached: Callable[[np.ndarray], bool], multiple: int
) -> np.ndarray:
    """Each group as wide as the limits allow, the narrowest first."""
    counts = [int(kept[group.units].sum()) for group in plan.groups]
    for number in sorted(range(len(counts)), key=lambda n: counts[n] / len(plan.groups[n])):
        group = plan.groups[number]
        step = step_of(group, multiple)
        few, many = counts[number] // step, math.ceil(len(group) / step)
        while few < many:
            middle = (few + many + 1) // 2
            tried = [*counts[:number], min(len(group), middle * step), *counts[number + 1 :]]
            few, many = (middle, many) if reached(kept_units(plan, scores, tried)) else (few, middle - 1)
        counts[number] = max(counts[number], min(len(group), few * step))
    return kept_units(plan, scores, counts)


def _fill(
    kept: np.ndarray, plan: Plan, scores: Sequence[np.ndarray], reached: Callable[[np.ndarray], bool], multiple: int
) -> np.ndarray:
    """One multiple more for each group that has room for it, the narrowest first: multiples are coarse."""
    counts = [int(kept[group.units].sum()) for group in plan.groups]
    for number in sorted(range(len(counts)), key=lambda n: counts[n] / len(plan.groups[n])):
        group = plan.groups[number]
        more = min(len(group), counts[number] + step_of(group, multiple))
        tried = kept_units(plan, scores, [*counts[:number], more, *counts[number + 1 :]])
        if more > counts[number] and reached(tried):
            counts[number], kept = more, tried
    return kept


def _local(groups: Sequence[Group], scores: Sequence[np.ndarray], ratio: float) -> list[int]:
    """Units to keep: the same share of every group."""
    return [math.ceil(len(group) * (1 - ratio) - 1e-9) for group in groups]


def _global(groups: Sequence[Group], scores: Sequence[np.ndarray], ratio: float) -> list[int]:
    """Units to keep: those that score best whatever group they are in, a tenth of each at least.

    Of equal scores the same share leaves every group.
    """
    everything = np.concatenate([np.zeros(0), *scores])
    ranks = [score.argsort(kind="stable").argsort() / len(score) for score in scores]
    order = np.lexsort((np.concatenate([np.zeros(0), *ranks]), everything))
    stays = np.ones(len(everything), bool)
    stays[order[: min(int(ratio * len(everything)), len(everything) - 1)]] = False
    ends = np.cumsum([len(score) for score in scores])
    return [
        max(int(stays[end - len(group) : end].sum()), math.ceil(LEAST * len(group)))
        for group, end in zip(groups, ends, strict=True)
    ]


def _leave_one(kept: np.ndarray, lines: Sequence[np.ndarray], importance: np.ndarray) -> np.ndarray:
    """No dim may lose everything: its best unit stays."""
    for units in lines:
        if not kept[units].any():
            kept[units[np.argmax(importance[units])]] = True
    return kept
