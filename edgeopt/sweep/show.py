"""How a sweep says how far it is: the library talks to a `Show`, only the command line has one that draws."""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from edgeopt.progress import Progress

__all__ = ["Show", "Status", "Telling", "read_status"]

TELL_EVERY_S = 0.5
STATUS = ".status.json"


@dataclass(frozen=True)
class Status:
    """Where a variant is."""

    number: int = 0
    """Of the stage, from 1."""
    stages: int = 0
    title: str = ""
    done: int = 0
    total: int = 0
    """Of the loop inside the stage."""
    metric: str = ""


class Show:
    """Told about variants; this base class ignores it all."""

    def begin(self, phase: str, variants: int, reused: int) -> None:
        """So many variants are to be made, or measured (`phase`); so many more were finished before."""

    def started(self, name: str) -> None:
        """A variant begins."""

    def moved(self, name: str, status: Status) -> None:
        """It has got so far."""

    def ended(self, name: str, seconds: float, error: str, told: str) -> None:
        """It is done; `error`: why not, else empty. `told`: what came out."""


class Telling(Progress):
    """In the process of a variant: leaves its status in a file twice a second, warnings and stages in a log."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.status, self.due = folder, Status(), 0.0

    def expect(self, stages: int) -> None:
        self._tell(Status(stages=stages))

    def stage(self, title: str) -> None:
        self.log(title)
        self._tell(Status(number=self.status.number + 1, stages=self.status.stages, title=title))

    def start(self, label: str, total: int) -> None:
        self._tell(Status(self.status.number, self.status.stages, self.status.title, total=total))

    def advance(self, steps: int = 1, metric: str = "") -> None:
        own = self.status
        done = Status(own.number, own.stages, own.title, own.done + steps, own.total, metric or own.metric)
        self.status = done
        if time.monotonic() >= self.due:
            self._tell(done)

    def warn(self, message: str) -> None:
        self.log(f"warning: {message}")

    def log(self, line: str) -> None:
        """A line at the end of `log.txt`."""
        with (self.folder / "log.txt").open("a", encoding="utf-8") as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}\n")

    def _tell(self, status: Status) -> None:
        self.status, self.due = status, time.monotonic() + TELL_EVERY_S
        temporary = self.folder / f"{STATUS}.tmp"
        temporary.write_text(json.dumps(asdict(status)))
        os.replace(temporary, self.folder / STATUS)


def read_status(folder: Path) -> Status | None:
    """What its process told last; None before that."""
    try:
        return Status(**json.loads((folder / STATUS).read_text()))
    except (OSError, ValueError, TypeError):
        return None


def forget_status(folder: Path) -> None:
    """Before a variant begins, and when it is done."""
    (folder / STATUS).unlink(missing_ok=True)
