"""The fewest layers in float with which a quantized model stays within an accuracy budget.

Layers are ranked by what each of them alone does to the output (`sensitivity.py`), which takes no labels and a few
samples. Then the measured drop decides, on a few thousand images: bisection finds the shortest prefix of the ranking
that reaches the budget, and a second look takes those of its members back that are not needed. That is at most
2 + log2(layers) + 2 (length of the prefix) measurements, each of one model that is built from ranges that are known
already.

Measured accuracy is a step function with noise, so that a longer prefix may do worse than a shorter one by an image or
two. Bisection then ends at one of the places where the budget is crossed; every set that is returned as reaching the
budget was measured to reach it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from edgeopt.errors import UsageError
from edgeopt.progress import Progress
from edgeopt.quantize.build import Builder
from edgeopt.quantize.found import Found
from edgeopt.quantize.judge import Judge, Verdict, images_to_judge
from edgeopt.quantize.samples import Samples
from edgeopt.quantize.sensitivity import rank
from edgeopt.stage import Context

__all__ = ["meet_budget"]

RANKING_SHARE = 0.5
"""Of the time budget, for the ranking at most."""


def meet_budget(
    builder: Builder,
    samples: Samples,
    *,
    max_drop: float,
    time_budget: float,
    context: Context,
    clock: Callable[[], float] = time.monotonic,
) -> Found:
    """The fewest layers to leave in float for a drop of at most `max_drop` percentage points.

    With labels the drop is of accuracy, without of top-1 agreement with the float model. After `time_budget` seconds
    (a measurement that has begun is finished), or on Ctrl-C, the best so far is handed back with a warning: the
    smallest set that was measured to reach the budget, else the one that came nearest. Raises UsageError on a tier
    that takes nothing but integers.
    """
    _refuse_integer_only(builder, max_drop)
    began = clock()
    search = _Search(builder, max_drop, began + time_budget, clock, context.progress)
    judge: Judge | None = None
    where, stopped = "", None
    try:
        images, where = images_to_judge(samples, context)
        judge = search.judge = Judge(builder.model, images, builder.tier, context)
        _warn_coarse(judge, where, max_drop, context.progress)
        if not search.reaches(()):
            half = began + RANKING_SHARE * time_budget
            ranked = rank(builder, samples, context, stop=lambda: clock() >= half)
            search.shorten(search.bisect([layer.name for layer in ranked]))
    except KeyboardInterrupt:
        stopped = "ctrl_c"
    except _TimeIsUp:
        stopped = "time_budget"
    search.explain(stopped, time_budget)
    facts = {
        "measured": judge.measure if judge is not None else None,
        "judged_images": len(judge) if judge is not None else 0,
        "judged_on": where,
        "search_seconds": round(clock() - began, 3),
        "stopped_by": stopped,
    }
    return Found(search.best, search.facts() | facts)


class _TimeIsUp(Exception):
    """The time budget is spent."""


class _Search:
    """What was measured so far, and the best of it."""

    def __init__(
        self, builder: Builder, max_drop: float, deadline: float, clock: Callable[[], float], progress: Progress
    ) -> None:
        self.judge: Judge | None = None
        self.best: frozenset[str] = frozenset()
        self._builder, self._max_drop = builder, max_drop
        self._deadline, self._clock, self._progress = deadline, clock, progress
        self._verdicts: dict[frozenset[str], Verdict] = {}

    def reaches(self, floating: Sequence[str]) -> bool:
        """Measure these layers in float. Raises _TimeIsUp when there is no time for a measurement."""
        chosen = frozenset(floating)
        if chosen not in self._verdicts:
            if self._clock() >= self._deadline:
                raise _TimeIsUp
            assert self.judge is not None
            label = f"accuracy with {len(chosen)} layers in float" if chosen else "accuracy in int8"
            self._verdicts[chosen] = self.judge.judge(self._builder.build(chosen).model, label)
            if chosen == self.best or self._merit(chosen) < self._merit(self.best):
                self.best = chosen
        return self._verdicts[chosen].drop_points <= self._max_drop

    def bisect(self, names: Sequence[str]) -> list[str]:
        """The shortest prefix of the ranking that reaches the budget, if the drop falls along it; all that were tried
        and none reaches: the whole ranking."""
        fails, reaches = 0, len(names)
        while reaches - fails > 1:
            middle = (fails + reaches) // 2
            if self.reaches(names[:middle]):
                reaches = middle
            else:
                fails = middle
        self.reaches(names[:reaches])
        return list(names[:reaches])

    def shorten(self, prefix: Sequence[str]) -> None:
        """Take back into integers what the budget is reached without: halves of the prefix first, then quarters, down
        to single layers, the least sensitive of them first."""
        if not self.reaches(prefix):
            return
        kept, size = list(prefix), len(prefix) // 2
        while size:
            end = len(kept)
            while end > 0:
                without = kept[: max(end - size, 0)] + kept[end:]
                end -= size
                if without and self.reaches(without):
                    kept = without
            size = min(size, len(kept)) // 2

    def explain(self, stopped: str | None, time_budget: float) -> None:
        """Warn of a search that was cut short, and of a budget that is not reached."""
        why = {"ctrl_c": "stopped by Ctrl-C", "time_budget": f"{time_budget:g} s are spent", None: ""}[stopped]
        verdict = self._verdicts.get(self.best)
        so_far = f"going on with the best so far, {len(self.best)} layers in float"
        if verdict is None:
            self._progress.warn(f"{why} before any accuracy was measured: going on with every layer in int8")
        elif verdict.drop_points > self._max_drop:
            found = f"a drop of {verdict.drop_points:.2f} pt, not the {self._max_drop:g} pt asked for"
            self._progress.warn(f"{f'{why}: ' if why else ''}{found}; {so_far}")
        elif why:
            self._progress.warn(f"{why}: {so_far}; fewer may do")
        elif self.best and not self._builder.plan(self.best).weights:
            self._progress.warn("the drop asked for leaves no layer in int8; try --preset best, or --qat")

    def facts(self) -> dict[str, Any]:
        """What was found, JSON-ready."""
        verdict, int8 = self._verdicts.get(self.best), self._verdicts.get(frozenset())
        order = [node.name for node in self._builder.model.graph.graph if node.name in self.best]
        found: dict[str, Any] = {
            "max_drop_points": self._max_drop,
            "reached": verdict is not None and verdict.drop_points <= self._max_drop,
            "float_layers": order,
            "measurements": len(self._verdicts),
            "int8_drop_points": None if int8 is None else int8.drop_points,
        }
        if verdict is not None:
            found |= {
                "drop_points": verdict.drop_points,
                "drop_low_points": verdict.low_points,
                "drop_high_points": verdict.high_points,
                "sqnr_db": verdict.sqnr_db,
                "resolved": verdict.high_points <= self._max_drop or verdict.low_points > self._max_drop,
            }
        return found

    def _merit(self, floating: frozenset[str]) -> tuple[bool, float]:
        """Less is better: sets that reach the budget by their size, then the others by their drop."""
        drop = self._verdicts[floating].drop_points
        fails = drop > self._max_drop
        return fails, drop if fails else len(floating)


def _refuse_integer_only(builder: Builder, max_drop: float) -> None:
    if builder.tier.integer_only:
        raise UsageError(
            f"tier {builder.tier.name} runs in integers only, so no layer can stay in float to keep {max_drop:g} pt",
            where="max_drop",
            fix="`--preset best` rounds with more care, `--qat` trains the integers; or take a tier that has floats",
        )


def _warn_coarse(judge: Judge, where: str, max_drop: float, progress: Progress) -> None:
    """Say so when one image is more than the budget."""
    if len(judge) * max_drop < 100:
        progress.warn(
            f"a drop of {max_drop:g} pt cannot be told on {len(judge)} images ({where}): one of them is "
            f"{100 / max(1, len(judge)):.2f} pt; give more training images"
        )
