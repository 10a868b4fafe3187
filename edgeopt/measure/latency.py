"""Latency of several models, taken in turns so that all of them meet the same disturbances.

A machine's clock, its other work and its temperature drift over seconds; two models timed one after the
other differ by that drift as much as by themselves. Here each round times every model once, in a random
order, and the medians of all rounds are compared.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgeopt.model.runtime import run

if TYPE_CHECKING:
    import onnxruntime as ort

__all__ = ["Latency", "time_sessions"]

WARM_UP = 3
FEWEST, MOST = 7, 200
"""Rounds: at least this many whatever they take, and no more than this."""
SHORTEST_S = 0.0005
"""A faster call is repeated inside one timing until it takes this long."""


@dataclass(frozen=True)
class Latency:
    """Time of one call, milliseconds."""

    median_ms: float
    low_ms: float
    """10th percentile of the rounds."""
    high_ms: float
    """90th percentile of the rounds."""
    rounds: int
    threads: int
    times_ms: tuple[float, ...] = ()
    """Of each round; round i of every model that was timed in the same turns met the same disturbances."""

    def ratio_to(self, other: Latency) -> tuple[float, float]:
        """10th and 90th percentile, round by round, of this latency / `other`'s, timed in the same turns."""
        low, high = np.percentile(np.array(self.times_ms) / np.array(other.times_ms), [10, 90])
        return float(low), float(high)


def time_sessions(
    sessions: Mapping[str, ort.InferenceSession],
    feeds: Mapping[str, Mapping[str, np.ndarray]],
    *,
    seconds: float = 2.0,
    rounds: int | None = None,
    seed: int = 0,
) -> dict[str, Latency]:
    """Latency of each session on its own feed; the number of threads is the session's own.

    About `seconds` in all are spent, or exactly `rounds` rounds. Raises StageFailed when a session cannot
    run.
    """
    estimates = {name: _warm_up(session, feeds[name]) for name, session in sessions.items()}
    repeats = {name: max(1, round(SHORTEST_S / estimate)) for name, estimate in estimates.items()}
    if rounds is None:
        one_round = sum(estimates[name] * repeats[name] for name in sessions)
        rounds = int(np.clip(seconds / max(one_round, 1e-9), FEWEST, MOST))
    random = np.random.default_rng(seed)
    names = list(sessions)
    times: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(rounds):
        for index in random.permutation(len(names)):
            name = names[index]
            times[name].append(_time(sessions[name], feeds[name], repeats[name]))
    return {name: _summary(times[name], sessions[name]) for name in names}


def _warm_up(session: ort.InferenceSession, feed: Mapping[str, np.ndarray]) -> float:
    """Seconds of the fastest of the first calls; the very first also allocates."""
    return min(_time(session, feed, 1) for _ in range(WARM_UP))


def _time(session: ort.InferenceSession, feed: Mapping[str, np.ndarray], repeats: int) -> float:
    begin = time.perf_counter()
    for _ in range(repeats):
        run(session, feed)
    return (time.perf_counter() - begin) / repeats


def _summary(seconds: list[float], session: ort.InferenceSession) -> Latency:
    times = np.array(seconds) * 1000
    low, median, high = np.percentile(times, [10, 50, 90])
    threads = session.get_session_options().intra_op_num_threads
    return Latency(float(median), float(low), float(high), len(seconds), int(threads), tuple(times.tolist()))
