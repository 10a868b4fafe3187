"""The terminal: where tables go, and how long work shows itself there.

On a terminal: a live line with stage, step, ETA and a metric. Elsewhere (CI, a pipe): one plain line a stage and
nothing that needs a cursor.
"""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from edgeopt.progress import Progress as ProgressBase

__all__ = ["TerminalProgress", "console", "print_json"]


def console(*, stderr: bool = False) -> Console:
    """A rich console for stdout (or stderr); plain and at most 100 columns wide when it is not a terminal."""
    terminal = Console(stderr=stderr, highlight=False)
    return terminal if terminal.is_terminal else Console(stderr=stderr, highlight=False, width=100, soft_wrap=True)


def print_json(value: object) -> None:
    """Machine-readable output: JSON on stdout, nothing else."""
    import json
    import sys

    sys.stdout.write(json.dumps(value, indent=2) + "\n")


class TerminalProgress(ProgressBase):
    """Draws on stderr, so that stdout holds results only. Use as a context manager."""

    def __init__(self) -> None:
        self._console = console(stderr=True)
        self._live = self._console.is_terminal
        self._bar = Progress(
            TextColumn("  [cyan]{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeRemainingColumn(compact=True, elapsed_when_finished=True),
            TextColumn("[dim]{task.fields[metric]}"),
            console=self._console,
            transient=True,
            disable=not self._live,
        )
        self._task: TaskID | None = None
        self._began: float | None = None
        self._title = ""

    def __enter__(self) -> TerminalProgress:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._finish(ok=kind is None)
        self._bar.stop()

    def stage(self, title: str) -> None:
        self._finish(ok=True)
        self._title, self._began = title, time.monotonic()
        if not self._live:
            self._console.print(title, markup=False)

    def start(self, label: str, total: int) -> None:
        self._drop()
        self._task = self._bar.add_task(f"{self._title}: {label}" if self._title else label, total=total, metric="")

    def advance(self, steps: int = 1, metric: str = "") -> None:
        if self._task is None:
            return
        if metric:
            self._bar.update(self._task, advance=steps, metric=metric)
        else:
            self._bar.advance(self._task, steps)

    def warn(self, message: str) -> None:
        self._console.print(f"warning: {message}", style="yellow", markup=False)

    def _finish(self, *, ok: bool) -> None:
        self._drop()
        if self._began is not None and self._live:
            mark = "[green]done[/]" if ok else "[red]stopped[/]"
            self._console.print(f"{mark} {self._title} [dim]{time.monotonic() - self._began:.1f} s[/]")
        self._began = None

    def _drop(self) -> None:
        if self._task is not None:
            self._bar.remove_task(self._task)
            self._task = None
