"""Reach a target: choose what stays by estimates, measure what comes out, correct the estimates, choose again.

Parameters and MACs are counted, so that one choice is enough. What a file weighs, what RAM it wants and how long it
takes are measured on the pruned model itself (see `Quantities`). An estimate is taken to err by the same factor in what
it saves, at every width.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgeopt.errors import StageFailed
from edgeopt.model import Model
from edgeopt.model.profile import profile
from edgeopt.prune.choose import Rule, Unreachable, choose
from edgeopt.prune.cost import Cost
from edgeopt.prune.groups import Plan
from edgeopt.prune.latency import Key, Table
from edgeopt.prune.narrow import losses_of, narrow
from edgeopt.prune.quantities import Quantities
from edgeopt.prune.stopwatch import Stopwatch
from edgeopt.prune.surgery import CannotRemove, remove
from edgeopt.prune.target import Target, format_amount, format_change
from edgeopt.stage import Context

__all__ = ["Aim"]

ROUNDS = 8
"""Choices that are measured."""
CLOSE = {"size": 0.01, "ram": 0.01, "latency": 0.02}
"""As near to the limit as this, the search for a wider choice ends."""
FURTHER = 0.985
"""Of an estimate whose measurement was beyond the limit: the next one is no larger than this."""
MARGIN = {"size": 0.002}
"""What training may still change in a file: how many bytes numbers take."""


class Aim:
    """A target for one model, whose costs are measured once, and choices that reach it.

    `seconds`: for timing layers, where the target has a latency.
    """

    def __init__(
        self,
        original: Model,
        target: Target,
        context: Context,
        *,
        rule: Rule,
        multiple: int,
        seconds: float = 60.0,
        stopwatch: Stopwatch | None = None,
    ) -> None:
        self._target = target
        self._context = context
        self._rule: Rule = rule
        self._multiple = multiple
        self._seconds = seconds
        self._stopwatch = stopwatch or Stopwatch(context.data)
        self._quantities = Quantities(original, target, context, self._stopwatch)
        self._timings: dict[Key, float] = {}
        self._facts: dict[str, Any] = {}

    @property
    def before(self) -> Mapping[str, float]:
        """What the original costs: `params`, `macs` and what the target is about."""
        return self._quantities.before

    def choose(self, model: Model, plan: Plan, scores: Sequence[np.ndarray], share: float = 1.0) -> np.ndarray:
        """bool [units of plan]: what stays of `model`, the original or an earlier step from it.

        `share`: how far on the way to the target, 0 to 1. Raises StageFailed with how far it gets where the target
        cannot be reached.
        """
        limits = self._target.limits(self.before, share)
        limits = {name: limit * (1 - MARGIN.get(name, 0.0)) for name, limit in limits.items()}
        now = self._quantities.of(model)
        pick = self._picker(model, plan, scores, now)
        allowed = {name: limit / now[name] for name, limit in limits.items()}
        if not set(limits) & set(CLOSE):
            try:
                return pick(allowed)[0]
            except Unreachable as error:
                raise self._refuse(model, plan, error.kept, limits) from error
        return self._correct(_Step(model, plan, scores, limits, now, self._rule), pick, allowed)

    def left(self, model: Model, plan: Plan) -> Callable[[np.ndarray], float]:
        """kept units -> what is left of the target's quantities, as a fraction; for a latency, of the units: what they
        save is weighed by `choose` itself."""
        names = list(self._target.wanted)
        if "latency" in names:
            return lambda kept: float(kept.mean())
        cost = Cost(model, plan)
        return lambda kept: float(np.mean(list(cost.fractions(kept, names).values())))

    def facts(self) -> dict[str, Any]:
        """What was measured of the original and of the last choice, units in the names."""
        return dict(self._facts)

    def _picker(self, model: Model, plan: Plan, scores: Sequence[np.ndarray], now: Mapping[str, float]) -> _Picker:
        if "latency" not in self._target.wanted:
            return _Picker(plan, scores, Cost(model, plan), self._rule, self._multiple, None, 1.0)
        began = time.perf_counter()
        self._context.progress.start("timing layers", 1)
        table = Table(
            model,
            plan,
            self._stopwatch,
            multiple=self._multiple,
            seconds=self._seconds,
            whole_ms=now["latency"],
            known=self._timings,
        )
        self._context.progress.advance()
        self._facts["layers_timed"] = table.timed
        self._facts["timing_seconds"] = round(time.perf_counter() - began, 3)
        cost = Cost(model, plan, {"latency": table.of})
        return _Picker(plan, scores, cost, self._rule, self._multiple, table, now["latency"])

    def _correct(self, step: _Step, pick: _Picker, allowed: dict[str, float]) -> np.ndarray:
        """The choice with the most left that reaches the limits by measurement."""
        best: np.ndarray | None = None
        wanted = dict(allowed)
        brackets = {name: _Bracket() for name in allowed}
        tried: dict[bytes, Mapping[str, float]] = {}
        while len(tried) < ROUNDS:
            kept, narrowest = pick(wanted)
            if kept.tobytes() in tried:
                if best is not None or narrowest:
                    break
                wanted = {name: limit * FURTHER for name, limit in wanted.items()}
                continue
            try:
                found = tried[kept.tobytes()] = self._quantities.of(remove(step.model, step.plan, kept)[0])
            except CannotRemove:
                return kept  # whoever asked will find out and ask again
            if step.reached(found) and (best is None or step.value(kept) > step.value(best)):
                best = kept
                self._facts |= self._quantities.facts(found)
                if step.is_close(found):
                    break
            estimated = pick.cost.fractions(kept, wanted)
            for name in set(allowed) & set(CLOSE):
                measured = found[name] / step.now[name]
                wanted[name] = brackets[name].next(allowed[name], estimated[name], measured)
        if best is None:
            last = min(tried.values(), key=step.excess)
            raise self._refuse(step.model, step.plan, kept, step.limits, last)
        return best

    def _refuse(
        self,
        model: Model,
        plan: Plan,
        kept: np.ndarray,
        limits: Mapping[str, float],
        found: Mapping[str, float] | None = None,
    ) -> StageFailed:
        """How far the narrowest choice gets, and what cannot be narrowed."""
        if found is None:
            left, now = Cost(model, plan).fractions(kept, limits), profile(model)
            found = {name: left[name] * {"params": now.params, "macs": now.macs}[name] for name in limits}
        reach = ", ".join(self._reached(name, found[name]) for name in limits)
        why = [f"{', '.join(names[:3])} {reason}" for reason, names in list(plan.pinned.items())[:4]]
        return StageFailed(
            f"{self._target} cannot be reached: the nearest is {reach}"
            + (f" (cannot be narrowed: {'; '.join(why)})" if why else ""),
            where="prune.target",
            fix="ask for less, or lower round_to",
        )

    def _reached(self, name: str, amount: float) -> str:
        change = format_change(round(amount / self.before[name] - 1, 4))
        return f"{name}={format_amount(name, amount)} ({change})"


class _Picker:
    """Estimates, and the choice by them."""

    def __init__(
        self,
        plan: Plan,
        scores: Sequence[np.ndarray],
        cost: Cost,
        rule: Rule,
        multiple: int,
        table: Table | None,
        whole_ms: float,
    ) -> None:
        self.cost = cost
        self._plan, self._scores, self._rule, self._multiple = plan, scores, rule, multiple
        self._table, self._whole_ms = table, whole_ms

    def __call__(self, allowed: Mapping[str, float]) -> tuple[np.ndarray, bool]:
        """bool [units] with at most these fractions by estimate, and whether it is only the narrowest there is.

        Raises Unreachable where nothing is measured and the limits cannot be reached.
        """
        others = {name: limit for name, limit in allowed.items() if name != "latency"}
        narrowest = False
        kept = self._plan.everything()
        try:
            if others:
                kept = choose(self._plan, self._scores, others, self.cost, self._rule, self._multiple)
            if self._table is not None:
                most_ms = allowed["latency"] * self._table.of(self._plan.everything())
                kept = narrow(self._plan, self._scores, self._table, most_ms, self._rule, self._multiple, kept)
        except Unreachable as error:
            if not set(allowed) & set(CLOSE):
                raise
            kept, narrowest = error.kept, True
        return kept, narrowest


class _Step:
    """One choice to be made: of which model, within what limits."""

    def __init__(
        self,
        model: Model,
        plan: Plan,
        scores: Sequence[np.ndarray],
        limits: Mapping[str, float],
        now: Mapping[str, float],
        rule: Rule,
    ) -> None:
        self.model, self.plan, self.limits, self.now = model, plan, limits, now
        self._losses = losses_of(plan, scores, rule)

    def reached(self, found: Mapping[str, float]) -> bool:
        return all(found[name] <= limit * (1 + 1e-9) for name, limit in self.limits.items())

    def excess(self, found: Mapping[str, float]) -> float:
        """The largest of the amounts over their limits."""
        return max(found[name] / limit for name, limit in self.limits.items())

    def is_close(self, found: Mapping[str, float]) -> bool:
        """Whether the limits leave little room for a wider choice."""
        return any(found[name] >= limit * (1 - CLOSE.get(name, 0.01)) for name, limit in self.limits.items())

    def value(self, kept: np.ndarray) -> float:
        """More where less is lost."""
        pairs = zip(self.plan.groups, self._losses, strict=True)
        return -float(sum(lost[int(kept[group.units].sum())] for group, lost in pairs))


@dataclass
class _Bracket:
    """Between which estimates the one lies that is measured as what is wanted; all as fractions of the original."""

    reached: float = 0.0
    missed: float = 1.0

    def next(self, wanted: float, estimated: float, measured: float) -> float:
        """The estimate to ask for after this one: as if savings erred by one factor, or else the middle."""
        if measured <= wanted:
            self.reached = max(self.reached, estimated)
        else:
            self.missed = min(self.missed, estimated)
        factor = (1 - measured) / (1 - estimated) if measured < 1 and estimated < 1 else 0.0
        asked = 1 - (1 - wanted) / factor if factor > 0 else 0.98 * estimated
        if measured > wanted:
            asked = min(asked, FURTHER * estimated)
        inside = self.reached < asked < self.missed or self.reached >= self.missed
        return float(np.clip(asked if inside else (self.reached + self.missed) / 2, 0.0, 1.0))
