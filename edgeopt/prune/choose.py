"""Which units stay: the best of each group, in widths that kernels like, as few as the target asks for."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from edgeopt.errors import StageFailed
from edgeopt.prune.cost import Cost
from edgeopt.prune.groups import Group, Plan
from edgeopt.prune.target import Target

__all__ = ["Ranking", "choose"]

Ranking = Literal["local", "global"]
STEPS = 18
"""Halvings of the ratio: finer than one unit of a group of a hundred thousand."""
LEAST = 0.1
"""Global ranking leaves every group this share: a layer whose scores are all low would vanish."""


def choose(
    plan: Plan, scores: Sequence[np.ndarray], target: Target, cost: Cost, ranking: Ranking, multiple: int
) -> np.ndarray:
    """bool [units], the fewest removals that reach the target, with widths rounded up to `multiple`.

    Raises StageFailed with how far it gets when the target cannot be reached.
    """
    counts = {"local": _local, "global": _global}[ranking]
    lines = _lines(plan)

    def kept_at(ratio: float) -> np.ndarray:
        kept = plan.everything()
        for group, order, count in zip(plan.groups, orders, counts(plan.groups, scores, ratio), strict=True):
            kept[group.units[order[: len(group) - _round_up(group, count, multiple)]]] = False
        return _leave_one(kept, lines, importance)

    orders = [np.argsort(score, kind="stable") for score in scores]
    importance = np.zeros(plan.count)
    for group, score in zip(plan.groups, scores, strict=True):
        importance[group.units] = score
    return _search(kept_at, target, cost, plan, importance)


def _search(
    kept_at: Callable[[float], np.ndarray], target: Target, cost: Cost, plan: Plan, importance: np.ndarray
) -> np.ndarray:
    """The smallest ratio that reaches the target, by bisection, less what was taken beyond it."""

    def reached(kept: np.ndarray) -> bool:
        left = cost.fractions(kept)
        return all(left[name] <= 1 - share + 1e-9 for name, share in target.wanted.items())

    low, high = 0.0, 1.0
    wider, best = kept_at(low), kept_at(high)
    if not reached(best):
        raise _unreachable(cost.fractions(best), target, plan)
    for _ in range(STEPS):
        middle = (low + high) / 2
        kept = kept_at(middle)
        if reached(kept):
            high, best = middle, kept
        else:
            low, wider = middle, kept
    return _give_back(wider, best, plan, reached, importance)


def _give_back(
    wider: np.ndarray, best: np.ndarray, plan: Plan, reached: Callable[[np.ndarray], bool], importance: np.ndarray
) -> np.ndarray:
    """Groups of equal size lose a multiple at the same ratio: give it back to as many as the target allows.

    Those whose units at stake matter most come first.
    """
    units = [group.units[wider[group.units] & ~best[group.units]] for group in plan.groups]
    units = sorted((some for some in units if len(some)), key=lambda some: -float(importance[some].mean()))
    few, many = 0, len(units)
    while few < many:
        middle = (few + many + 1) // 2
        few, many = (middle, many) if reached(_with(best, units[:middle])) else (few, middle - 1)
    return _with(best, units[:few])


def _with(kept: np.ndarray, units: Sequence[np.ndarray]) -> np.ndarray:
    """The mask with these units kept too."""
    more = kept.copy()
    for some in units:
        more[some] = True
    return more


def _local(groups: Sequence[Group], scores: Sequence[np.ndarray], ratio: float) -> list[int]:
    """Units to keep: the same share of every group."""
    return [math.ceil(len(group) * (1 - ratio) - 1e-9) for group in groups]


def _global(groups: Sequence[Group], scores: Sequence[np.ndarray], ratio: float) -> list[int]:
    """Units to keep: those above one threshold for all groups, a tenth of each at least."""
    everything = np.sort(np.concatenate([np.zeros(0), *scores]))
    position = min(int(ratio * len(everything)), len(everything) - 1)
    threshold = everything[position] if len(everything) else 0.0
    return [
        max(int((score >= threshold).sum()), math.ceil(LEAST * len(group)))
        for group, score in zip(groups, scores, strict=True)
    ]


def _round_up(group: Group, count: int, multiple: int) -> int:
    """Units to keep so that the channels are a multiple, and one multiple at least; narrow groups stay as they are."""
    step = multiple // math.gcd(multiple, group.channels_per_unit)
    return min(len(group), max(1, math.ceil(count / step)) * step)


def _lines(plan: Plan) -> list[np.ndarray]:
    """The units along each dim that could be emptied, each set once."""
    found: dict[bytes, np.ndarray] = {}
    for blocks in plan.trace.labels.values():
        for block in blocks:
            units = np.unique(plan.unit_of[block.ids])
            if units[0] >= 0:
                found.setdefault(units.tobytes(), units)
    return list(found.values())


def _leave_one(kept: np.ndarray, lines: list[np.ndarray], importance: np.ndarray) -> np.ndarray:
    """No dim may lose everything (one half of a Split, say): its best unit stays."""
    for units in lines:
        if not kept[units].any():
            kept[units[np.argmax(importance[units])]] = True
    return kept


def _unreachable(left: dict[str, float], target: Target, plan: Plan) -> StageFailed:
    goals = ", ".join(f"{name}=-{share:.0%}" for name, share in target.wanted.items())
    reach = ", ".join(f"{name}=-{1 - left[name]:.1%}" for name in target.wanted)
    why = [f"{', '.join(names[:3])} {reason}" for reason, names in list(plan.pinned.items())[:4]]
    return StageFailed(
        f"{goals} cannot be reached: with every group at its narrowest it is {reach}"
        + (f" (cannot be narrowed: {'; '.join(why)})" if why else ""),
        where="prune.target",
        fix="ask for less, or lower round_to",
    )
