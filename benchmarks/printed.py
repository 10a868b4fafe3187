"""Progress of long benchmarks, as lines of text."""

from __future__ import annotations

import time

from edgeopt.progress import Progress

__all__ = ["Printed"]


class Printed(Progress):
    """Stages and warnings on the terminal, and how far an epoch is, now and then."""

    def __init__(self) -> None:
        self.done = self.total = 0
        self.due = 0.0
        self.label = ""

    def start(self, label: str, total: int) -> None:
        self.label, self.done, self.total = label, 0, total

    def advance(self, steps: int = 1, metric: str = "") -> None:
        self.done += steps
        if time.monotonic() > self.due:
            print(f"  {self.label} {self.done}/{self.total} {metric}", flush=True)
            self.due = time.monotonic() + 30

    def warn(self, message: str) -> None:
        print(f"  ! {message}", flush=True)
