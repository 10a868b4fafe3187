"""Placement by measurement: which nodes in integers make the fastest file on this machine.

A model of the costs (`speed/costs.py`) and a minimum cut (`speed/cut.py`) give the best placement of all 2^n, if the
costs were right. They are not: caches, fusions and processors differ. So the model only proposes, and whole files
are timed, in turns, so that all of them meet the same disturbances:

1. The field: everything in integers, everything in float, and the optima for costs in which integer products or
   conversions are cheaper or dearer than they typically are. The fastest goes on.
2. The doubtful places: for each node the best placement in which this node alone is told to change sides, its
   neighbours following where that pays. Those that cost least by the model come first, a few at a time beside the best
   so far. What is faster by more than the noise is kept, alone or together with others, if it is faster again.
3. The final: the best few once more, in sessions of their own, with the optimum for typical costs among them. Of those
   about as fast as the fastest the one whose outputs are nearest to the float model's is taken.

A time is a low percentile over the rounds: what disturbs a run only ever adds to it. Sessions of one and the same file
differ by about 1 % (memory lies differently), so each time is the mean of two sessions, and a difference has to show
twice, in sessions of its own each time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from edgeopt.model.model import Model
from edgeopt.quantize.build import Builder
from edgeopt.quantize.calibrators import MinMax
from edgeopt.quantize.found import Found
from edgeopt.quantize.nearness import nearness
from edgeopt.quantize.samples import Samples
from edgeopt.quantize.speed.costs import TYPICAL
from edgeopt.quantize.speed.finish import finish
from edgeopt.quantize.speed.labels import Labels
from edgeopt.quantize.weights import MaxScale
from edgeopt.stage import Context

__all__ = ["Placement", "TimeModels", "build_as_delivered", "find_fast"]

Placement = frozenset[str]
"""Names of the candidates that stay in float."""
TimeModels = Callable[[Sequence[Model]], Sequence[float]]
"""Milliseconds of one inference of each model, measured in turns."""

SCALES = [
    (products, conversions, rounding)
    for rounding in (1.0, 3.0, 8.0)
    for products in (0.6, 1.0, 1.8)
    for conversions in (0.5, 1.0, 1.5)
]
"""Of integer products, of conversions and of what rounding has to gain: the costs whose optima are the field."""
TOGETHER = 5
"""Changes that are timed beside the best so far."""
NOISE = 0.008
"""A change has to win this share of the latency, twice."""
ROUNDS = 40
"""Groups of changes, at most."""
FINALISTS = 4
CLOSE = 0.03
"""Finalists within this share of the fastest are as good as it, and accuracy decides. Sessions of one file differ by a
third of that, and on mobilenet_v3_small the last 2 % of speed took eleven more integer nodes and 6.6 dB."""
JUDGED = 16
"""Samples that say which of them is nearest to float."""
SESSIONS = 2
"""Of each model, in each group."""
SECONDS = 2.5
"""For timing one group of models."""


def find_fast(
    builder: Builder,
    samples: Samples,
    context: Context,
    *,
    time_budget: float = 60.0,
    time_models: TimeModels | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Found:
    """The placement that was measured fastest on this machine: one sample, one thread, onnxruntime's CPU provider.

    Excluded nodes stay in float. No change is begun after `time_budget` seconds; the final takes a few more.
    `time_models` stands in for the stopwatch in tests. Facts: milliseconds of the float model, of everything in
    integers and of the result in the final, models timed, seconds. Raises StageFailed where onnxruntime cannot run a
    model.
    """
    began = clock()
    timer = time_models or _Stopwatch(next(iter(samples.take(1).batches(1))))
    quick = replace(builder, calibrator=MinMax(), weights=MaxScale())  # other integers take the same time
    search = _Search(quick, Labels(builder.model, builder.candidates(), TYPICAL), timer)
    context.progress.start("timing placements", 2 + ROUNDS)
    search.try_field()
    for _ in range(ROUNDS):
        context.progress.advance()
        if clock() - began >= time_budget or not search.try_changes():
            break
    times, close = search.hold_final()
    chosen = close[0] if len(close) == 1 else _nearest(builder, close, samples)
    context.progress.advance()
    return Found(
        chosen,
        {
            "float_ms": round(times[search.everything], 3),
            "all_integer_ms": round(times[frozenset()], 3),
            "chosen_ms": round(times[chosen], 3),
            "models_timed": search.timed,
            "seconds": round(clock() - began, 1),
        },
    )


def build_as_delivered(builder: Builder, floating: Placement) -> Model:
    """The file of a placement; the float model, with nothing done to it, where all is float."""
    if floating >= set(builder.candidates()):
        return builder.model
    return finish(builder.build(floating).model)


@dataclass
class _Search:
    """What has been timed so far."""

    builder: Builder
    labels: Labels
    time_models: TimeModels
    best: Placement = frozenset()
    typical: Placement = frozenset()
    """What would be chosen without measuring."""
    given: dict[str, bool] = field(default_factory=dict)
    """Labels that were measured to be right against the model of costs: node name -> in integers."""
    tried: set[Placement] = field(default_factory=set)
    leaders: list[Placement] = field(default_factory=list)
    """Placements that were the best at some time, the best of the field first."""
    timed: int = 0

    @property
    def everything(self) -> Placement:
        return self.labels.candidates

    def try_field(self) -> None:
        """Time the optima of the scaled costs; the costs of the fastest are those that go on."""
        self.typical = self.labels.floating()
        proposals = dict.fromkeys((frozenset(), self.everything, self.typical), self.labels)
        for products, conversions, rounding in SCALES:
            costs = TYPICAL.scaled(products=products, conversions=conversions, rounding=rounding)
            labels = Labels(self.builder.model, self.labels.candidates, costs)
            proposals.setdefault(labels.floating(), labels)
        times = self._time(list(proposals))
        fastest = sorted(times, key=lambda p: (times[p], -len(p)))[:FINALISTS]
        times = self._time(fastest)
        self.leaders = sorted(fastest, key=lambda p: (times[p], -len(p)))
        self.best = self.leaders[0]
        self.labels = proposals[self.best]
        self.tried = set(proposals)

    def try_changes(self) -> bool:
        """Time the next few changes and keep what is faster; False when there is none left to try."""
        changes = self._next_changes()
        if not changes:
            return False
        self.tried |= set(changes.values())
        times = self._time([self.best, *changes.values()])
        limit = times[self.best] * (1 - NOISE)
        winners = sorted((n for n, p in changes.items() if times[p] < limit), key=lambda n: times[changes[n]])
        if winners:
            self._confirm({self._changed(winners[:count]): winners[:count] for count in range(1, len(winners) + 1)})
        return True

    def hold_final(self) -> tuple[dict[Placement, float], list[Placement]]:
        """Milliseconds of the leaders and of both extremes, and which of them all are as fast as the fastest."""
        field = dict.fromkeys([*self.leaders[-2:], *self.leaders[:2], self.typical, frozenset(), self.everything])
        first, second = self._time(list(field)), self._time(list(field))
        times = {placement: (first[placement] + second[placement]) / 2 for placement in field}
        limit = min(times.values()) * (1 + CLOSE)
        return times, sorted((p for p in field if times[p] <= limit), key=lambda p: (times[p], -len(p)))

    def _confirm(self, combined: Mapping[Placement, Sequence[str]]) -> None:
        times = self._time([self.best, *combined])
        fastest = min(times, key=lambda p: (times[p], -len(p)))
        if fastest != self.best and times[fastest] < times[self.best] * (1 - NOISE):
            self.given |= {name: name not in fastest for name in combined[fastest]}
            self.best = fastest
            self.leaders.append(fastest)

    def _next_changes(self) -> dict[str, Placement]:
        """Node -> the placement that its change leads to, of those not tried yet the least costly by the model."""
        here = self.labels.total(self.best)
        doubtful: dict[Placement, tuple[int, str]] = {}
        for name in sorted(self.everything):
            placement = self._changed([name])
            behind = self.labels.total(placement) - here
            if placement not in self.tried and placement != self.best:
                doubtful.setdefault(placement, (behind, name))
        chosen = sorted(doubtful, key=lambda placement: doubtful[placement])[:TOGETHER]
        return {doubtful[placement][1]: placement for placement in chosen}

    def _changed(self, names: Collection[str]) -> Placement:
        """The best placement, by the model, with these nodes on their other side."""
        return self.labels.floating(self.given | {name: name in self.best for name in names})

    def _time(self, placements: Sequence[Placement]) -> dict[Placement, float]:
        models = [build_as_delivered(self.builder, placement) for placement in placements]
        self.timed += len(models)
        return dict(zip(placements, self.time_models(models), strict=True))


def _nearest(builder: Builder, placements: Sequence[Placement], samples: Samples) -> Placement:
    """The placement whose outputs differ least from the float model's."""
    models = [build_as_delivered(builder, placement) for placement in placements]
    found = nearness(builder.model, *models, samples=samples.take(JUDGED), tier=builder.tier)
    return placements[int(np.argmax([near.decibels for near in found]))]


class _Stopwatch:
    """Times models in turns on one sample, one thread."""

    def __init__(self, feeds: Mapping[str, np.ndarray]) -> None:
        self.feeds = feeds

    def __call__(self, models: Sequence[Model]) -> list[float]:
        from edgeopt.measure.latency import time_sessions
        from edgeopt.model.runtime import open_session

        sessions = {
            f"{index} {copy}": open_session(model, threads=1)
            for index, model in enumerate(models)
            for copy in range(SESSIONS)
        }
        found = time_sessions(sessions, dict.fromkeys(sessions, self.feeds), seconds=SECONDS)
        return [
            sum(found[f"{index} {copy}"].low_ms for copy in range(SESSIONS)) / SESSIONS for index in range(len(models))
        ]
