"""What pruning one group alone does to the outputs, and scores that follow it.

A criterion compares the units of one group; it says little about how much a whole group may lose. That is measured
here: the least important units of one group are masked, at a few ratios, and the outputs compared with the unpruned
ones on the same images (Kullback-Leibler divergence of the classes, or the noise's share of the power where the
outputs are no classes). Li et al. (arXiv 1608.08710, section 3.2) choose ratios by hand from such curves; here each
unit's score becomes the measured loss that its leaving adds, over what its leaving saves, so that one threshold for
all groups removes what costs least for what it brings: the greedy answer to a knapsack.

Without images the loss of a group is the share of its weights' energy that leaves.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgeopt.data.feeds import feeds_for
from edgeopt.model import Model
from edgeopt.model.profile import profile
from edgeopt.prune.equivalence import mask
from edgeopt.prune.groups import Group, Plan
from edgeopt.stage import Context
from edgeopt.train.stage import ends_in_softmax

__all__ = ["Curve", "affordable", "by_energy", "marginal", "measure"]

RATIOS = (0.5, 0.25, 0.75)
"""Of a group's units that are masked, the most telling first: time may run out."""
BATCH = 64
MACS = 10**12
"""Of all measurements together: half a minute of one core."""
FEWEST = 16
"""Images that even a large network is looked at with."""


@dataclass(frozen=True)
class Curve:
    """What a group's pruning alone costs."""

    group: str
    losses: tuple[tuple[float, float], ...]
    """(ratio of units that leave, loss); empty where time ran out before the group's turn."""
    measured_on: str = ""

    def facts(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"group": self.group, "losses": [{"ratio": ratio, "loss": loss} for ratio, loss in self.losses]}


def measure(
    model: Model,
    plan: Plan,
    scores: Sequence[np.ndarray],
    context: Context,
    *,
    images: int,
    seconds: float,
    clock: Callable[[], float] = time.monotonic,
) -> list[Curve]:
    """One curve for each group, from `images` calibration images, in `seconds` (a measurement that began is finished).

    Groups that time does not reach get empty curves.
    """
    judge = _Judge(model, context, images)
    losses: list[list[tuple[float, float]]] = [[] for _ in plan.groups]
    began = clock()
    context.progress.start("sensitivity of groups", len(RATIOS) * len(plan.groups))
    for ratio in RATIOS:
        for group, score, found in zip(plan.groups, scores, losses, strict=True):
            if clock() - began > seconds:
                break
            count = round(ratio * len(group))
            if 0 < count < len(group):
                found.append(
                    (count / len(group), judge.loss(mask(model, plan, _without_least(plan, group, score, count))))
                )
            context.progress.advance(metric=group.name)
    return [Curve(g.name, tuple(sorted(found)), judge.on) for g, found in zip(plan.groups, losses, strict=True)]


def affordable(model: Model, groups: int, wanted: int) -> int:
    """Of so many images those that `measure` gets through with about MACS multiply-adds."""
    each = len(RATIOS) * max(1, groups) * max(1, profile(model).macs)
    return min(wanted, max(FEWEST, MACS // each))


def by_energy(plan: Plan, energies: Sequence[np.ndarray], scores: Sequence[np.ndarray]) -> list[Curve]:
    """Curves from weights alone. `energies`: squared norm of each unit's weights, by group."""
    curves = []
    for group, score, energy in zip(plan.groups, scores, energies, strict=True):
        leaving = np.cumsum(energy[np.argsort(score, kind="stable")]) / max(energy.sum(), 1e-30)
        counts = [round(ratio * len(group)) for ratio in sorted(RATIOS)]
        losses = tuple((n / len(group), float(leaving[n - 1])) for n in counts if 0 < n < len(group))
        curves.append(Curve(group.name, losses, "weights"))
    return curves


def marginal(curves: Sequence[Curve], scores: Sequence[np.ndarray], savings: Sequence[float]) -> list[np.ndarray]:
    """float64 [units] for each group: the loss that a unit's leaving adds, over what it saves.

    Along a group's units, least important first, the loss rises by slopes that never fall (an interpolation of the
    measured curve), and is shared out by the criterion's scores: the order within a group stays as it was. A group
    without a curve gets the median of the others at each point. `savings`: cost that one unit of the group saves.
    """
    known = [_slopes(curve) for curve in curves if curve.losses]
    middle = np.median(known, axis=0) if known else np.ones(_GRID.size)
    found = []
    for curve, score, saving in zip(curves, scores, savings, strict=True):
        slopes = _slopes(curve) if curve.losses else middle
        order = np.argsort(score, kind="stable")
        place = (np.arange(len(score)) + 0.5) / len(score)
        mean = max(float(score.mean()), 1e-30)
        weighed = np.empty(len(score))
        weighed[order] = np.interp(place, _GRID, slopes) * np.maximum.accumulate(score[order]) / mean
        found.append(weighed / len(score) / max(saving, 1e-30))
    return found


_GRID = np.linspace(0, 1, 21)


def _slopes(curve: Curve) -> np.ndarray:
    """d loss / d ratio on the grid: slopes between the measured points, made rising, joined by lines."""
    ratios = np.array([0.0, *(ratio for ratio, _ in curve.losses)])
    losses = np.array([0.0, *(max(loss, 0.0) for _, loss in curve.losses)])
    losses = np.maximum.accumulate(losses)
    widths = np.diff(ratios)
    slopes = _rising(np.diff(losses) / widths, widths)
    middles = ratios[:-1] + widths / 2
    rate = (slopes[-1] - slopes[-2]) / (middles[-1] - middles[-2]) if len(slopes) > 1 else slopes[-1]
    middles, slopes = np.append(middles, 1.0), np.append(slopes, slopes[-1] + rate * (1 - middles[-1]))
    start = slopes[0] * min(1.0, _START)
    result: np.ndarray = np.interp(_GRID, np.insert(middles, 0, 0.0), np.insert(slopes, 0, start))
    positive: np.ndarray = np.maximum(result, 1e-12)
    return positive


_START = 0.2
"""The first unit's slope as a share of that over the first stretch: a loss begins flat."""


def _rising(slopes: np.ndarray, widths: np.ndarray) -> np.ndarray:
    """The nearest slopes that never fall (pool adjacent violators)."""
    pools: list[tuple[float, float, int]] = []
    for slope, width in zip(slopes, widths, strict=True):
        pools.append((float(slope), float(width), 1))
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            (s1, w1, n1), (s2, w2, n2) = pools[-2:]
            pools[-2:] = [((s1 * w1 + s2 * w2) / (w1 + w2), w1 + w2, n1 + n2)]
    return np.concatenate([np.full(count, slope) for slope, _, count in pools])


def _without_least(plan: Plan, group: Group, score: np.ndarray, count: int) -> np.ndarray:
    kept = plan.everything()
    kept[group.units[np.argsort(score, kind="stable")[:count]]] = False
    return kept


class _Judge:
    """The unpruned model's outputs on some images, and how far another model's are from them."""

    def __init__(self, model: Model, context: Context, images: int) -> None:
        data = context.need_data("sensitivity")
        split = data.calibration.sample(images, context.seed)
        self.on = f"{len(split)} images"
        self._feeds = list(feeds_for(model, split, BATCH))
        self._wanted = self._outputs(model)
        self._probabilities = ends_in_softmax(model)
        self._classes = self._wanted[0].ndim == 2 and self._wanted[0].shape[1] > 1

    def loss(self, model: Model) -> float:
        """Mean KL divergence of the classes in nats, or noise over signal power."""
        outputs = self._outputs(model)
        pairs = list(zip(self._wanted, outputs, strict=True))
        if not self._classes:
            noise = sum(float(np.square(a - b, dtype=np.float64).sum()) for a, b in pairs)
            return noise / max(sum(float(np.square(a, dtype=np.float64).sum()) for a, _ in pairs), 1e-30)
        gaps = [self._log(a) - self._log(b) for a, b in pairs]
        weighed = [(np.exp(self._log(a)) * gap).sum(1) for (a, _), gap in zip(pairs, gaps, strict=True)]
        return float(np.concatenate(weighed).mean())

    def _log(self, outputs: np.ndarray) -> np.ndarray:
        if self._probabilities:
            logged: np.ndarray = np.log(np.maximum(outputs.astype(np.float64), 1e-12))
            return logged
        shifted = outputs.astype(np.float64) - outputs.max(1, keepdims=True)
        normal: np.ndarray = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
        return normal

    def _outputs(self, model: Model) -> list[np.ndarray]:
        from edgeopt.model.runtime import open_session, run

        session = open_session(model)
        return [run(session, feeds)[0] for feeds in self._feeds]
