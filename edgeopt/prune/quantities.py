"""What a model costs in the quantities of a target, as the run will have it: counted, weighed or timed.

A file is made as the run will make it. A latency is timed in turns with the original's, so that a machine that is
slower for a while is slower for both.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

from edgeopt.measure import Latency
from edgeopt.model import Model
from edgeopt.model.profile import profile
from edgeopt.prune.stopwatch import THREADS, Stopwatch
from edgeopt.prune.target import Target
from edgeopt.stage import Context

__all__ = ["Quantities"]

FILES = ("size", "ram")


class Quantities:
    """Measures pruned models beside their original."""

    def __init__(self, original: Model, target: Target, context: Context, stopwatch: Stopwatch) -> None:
        self.original = original
        self._target = target
        self._context = context
        self._stopwatch = stopwatch
        self._timed: Mapping[str, Latency] = {}

    @cached_property
    def before(self) -> dict[str, float]:
        """Of the original: parameters and MACs always, else what the target is about."""
        counted = profile(self.original)
        found: dict[str, float] = {"params": counted.params, "macs": counted.macs}
        if not self._target.wanted.keys().isdisjoint(FILES):
            found |= self._of_file(self.original)
        if "latency" in self._target.wanted:
            found["latency"] = self._stopwatch.whole({"before": self.original})["before"].median_ms
        return found

    def of(self, model: Model) -> dict[str, float]:
        """Of any model, what the target is about: numbers, bytes, milliseconds."""
        if model is self.original:
            return self.before
        wanted, found = self._target.wanted.keys(), dict[str, float]()
        if not wanted.isdisjoint(("params", "macs")):
            costs = profile(model)
            found |= {"params": costs.params, "macs": costs.macs}
        if not wanted.isdisjoint(FILES):
            found |= self._of_file(model)
        if "latency" in wanted:
            found["latency"] = self._latency(model)
        return found

    def facts(self, found: Mapping[str, float]) -> dict[str, Any]:
        """The original's beside what was `found` of the model measured last, units in the names."""
        facts: dict[str, Any] = {}
        if "size" in self._target.wanted:
            facts |= {"file_bytes_before": self.before["size"], "file_bytes_after": found["size"]}
        if "ram" in self._target.wanted:
            facts |= {"ram_bytes_before": self.before["ram"], "ram_bytes_after": found["ram"]}
        if "latency" in self._target.wanted:
            before, after = self._timed["before"], self._timed["after"]
            share = {"latency_share": round(after.median_ms / before.median_ms, 4), "threads": THREADS}
            facts |= _spread("before", before) | _spread("after", after) | share
        return facts

    def _of_file(self, model: Model) -> dict[str, float]:
        """Of the file that the run ships; the model's own where there is no run."""
        if self._context.artifact is None:
            return {"size": model.size_bytes, "ram": profile(model).peak_ram_bytes}
        made = self._context.artifact(model)
        planned = made.facts.get("c_code")
        ram = max(planned["arena_bytes"].values()) if planned else profile(made.model).peak_ram_bytes
        return {"size": made.facts["size_bytes"], "ram": ram}

    def _latency(self, model: Model) -> float:
        """Milliseconds; where the target is a change, as many as there would have been when the original was timed."""
        times = self._timed = self._stopwatch.whole({"before": self.original, "after": model})
        if self._target.wanted["latency"] > 0:
            return times["after"].median_ms
        return times["after"].median_ms / times["before"].median_ms * self.before["latency"]


def _spread(when: str, latency: Latency) -> dict[str, float]:
    """Median with the 10th and 90th percentile, milliseconds."""
    return {
        f"latency_{when}_ms": round(latency.median_ms, 4),
        f"latency_{when}_low_ms": round(latency.low_ms, 4),
        f"latency_{when}_high_ms": round(latency.high_ms, 4),
    }
