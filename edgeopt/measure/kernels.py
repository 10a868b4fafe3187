"""What onnxruntime's own profiler says of some runs: one event for each kernel."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgeopt.model import Model
from edgeopt.model.runtime import open_session, run

__all__ = ["kernel_events"]


def kernel_events(
    model: Model,
    feeds: Mapping[str, np.ndarray],
    rounds: Callable[[float], int],
    *,
    warm_up: int,
    threads: int = 1,
    entries: Mapping[str, str] | None = None,
) -> tuple[list[dict[str, Any]], int]:
    """The kernels of all runs in the order they ran (`name`, `dur` in microseconds, `args`), and how many runs after
    the first `warm_up` (1 at least) there were: `rounds` of the seconds that the last of those took. Raises StageFailed
    when the model cannot be run.
    """
    with tempfile.TemporaryDirectory(prefix="edgeopt-") as folder:
        session = open_session(model, threads=threads, entries=entries, profile_to=Path(folder, "run"))
        for _ in range(warm_up):
            began = time.perf_counter()
            run(session, feeds)
            took = time.perf_counter() - began
        count = rounds(took)
        for _ in range(count):
            run(session, feeds)
        events = json.loads(Path(session.end_profiling()).read_text())
    return [e for e in events if e.get("cat") == "Node" and e["name"].endswith("kernel_time")], count
