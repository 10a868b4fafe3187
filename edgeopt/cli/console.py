"""The terminal: where tables go, and how long work shows itself there.

On a terminal: a live line with stage, step, time left, a metric and its course, and one line that stays when a stage is
done. Elsewhere (CI, a pipe): plain lines when a stage begins and ends and twice a minute in between, and nothing that
needs a cursor. With `--quiet`: nothing.
"""

from __future__ import annotations

import os
import re
import textwrap
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import pairwise
from types import TracebackType

from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.segment import Segment
from rich.table import Column
from rich.text import Text

from edgeopt.progress import Progress as ProgressBase

__all__ = [
    "NARROW",
    "TerminalProgress",
    "bar",
    "console",
    "hanging",
    "is_quiet",
    "print_json",
    "printed",
    "quietly",
    "sparkline",
    "wraps",
]

_quiet: ContextVar[bool] = ContextVar("quiet", default=False)

PLAIN_WIDTH = 100
"""Of a table in a pipe or a file, unless COLUMNS says otherwise."""
NARROW = 72
"""Columns below which a display leaves out what it can do without."""
LEAST_BODY = 36
"""Columns that a sentence behind its label wants; with fewer it begins on a line of its own."""
INDENT = 6
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")
SPARKS = "▁▂▃▄▅▆▇█"
EIGHTHS = " ▏▎▍▌▋▊▉█"
SPARK_WIDTH = 10
SAY_EVERY_S = 30.0
"""Seconds between the lines that say how far long work is where there is no terminal."""
WORTH_SAYING_S = 1.0


@contextmanager
def quietly(quiet: bool) -> Iterator[None]:
    """Inside, no progress and no warnings are shown if `quiet`, and commands that make artifacts print the verdict."""
    token = _quiet.set(quiet or _quiet.get())
    try:
        yield
    finally:
        _quiet.reset(token)


def is_quiet() -> bool:
    """Whether the command was given --quiet."""
    return _quiet.get()


class _Screen(Console):
    """Shows control characters in what is printed, such as the names in a stranger's model, as a mark: none acts."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        for segment in super().render(renderable, options):
            clean = segment.control or CONTROL.search(segment.text) is None
            yield segment if clean else Segment(CONTROL.sub("�", segment.text), segment.style)


def console(*, stderr: bool = False) -> Console:
    """A rich console for stdout (or stderr); where it is not a terminal plain, and 100 columns wide unless COLUMNS is
    set."""
    terminal = _Screen(stderr=stderr, highlight=False)
    if terminal.is_terminal:
        return terminal
    width = int(columns) if (columns := os.environ.get("COLUMNS", "")).isdigit() else PLAIN_WIDTH
    return _Screen(stderr=stderr, highlight=False, width=width, soft_wrap=True)


def wraps(terminal: Console) -> bool:
    """Whether long lines are broken: for a person. In a pipe without COLUMNS a line stays one, for `grep`."""
    return terminal.is_terminal or os.environ.get("COLUMNS", "").isdigit()


def hanging(head: Text, body: str, width: int) -> Text:
    """`body` behind `head`, its further lines below where it begins; words longer than a line stay whole."""
    indent = head.cell_len if width - head.cell_len >= LEAST_BODY else INDENT
    room = max(width - indent, LEAST_BODY)
    lines = textwrap.wrap(body, room, break_long_words=False, break_on_hyphens=False) or [""]
    if indent < head.cell_len:
        return Text(f"\n{' ' * indent}").join([head, *map(Text, lines)])
    return head + f"\n{' ' * indent}".join(lines)


def printed(parts: Iterable[RenderableType], *, to_file: bool) -> str:
    """The parts as the screen would show them, within its width; for a file without colours."""
    screen = console()
    with screen.capture() as capture:
        for part in parts:
            screen.print(part, soft_wrap=False, crop=False)
    return Text.from_ansi(capture.get()).plain + "\n" if to_file else capture.get()


def print_json(value: object) -> None:
    """Machine-readable output: JSON on stdout, nothing else."""
    import json
    import sys

    sys.stdout.write(json.dumps(value, indent=2) + "\n")


def sparkline(values: Sequence[float], width: int = SPARK_WIDTH) -> str:
    """The course of `values` in at most `width` characters, each the mean of its share of them: `█▅▃▂▁`."""
    count = min(width, len(values))
    if count < 2:
        return ""
    edges = [round(part * len(values) / count) for part in range(count + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in pairwise(edges)]
    low, span = min(means), max(means) - min(means)
    return "".join(SPARKS[round((mean - low) / span * (len(SPARKS) - 1)) if span else 0] for mean in means)


def bar(share: float, width: int = 10) -> str:
    """A bar that fills `share` (0 to 1) of `width` characters, to an eighth of one."""
    eighths = round(min(max(share, 0.0), 1.0) * width * 8)
    return (EIGHTHS[8] * (eighths // 8) + EIGHTHS[eighths % 8]).strip()


class _Metric(ProgressColumn):
    """The latest reading, and where there is room its course."""

    def __init__(self, *, with_course: bool) -> None:
        super().__init__(Column(no_wrap=True, overflow="ellipsis"))
        self.with_course = with_course

    def render(self, task: Task) -> Text:
        course = sparkline(task.fields["readings"]) if self.with_course else ""
        return Text(f"{task.fields['metric']} {course}".strip(), style="dim")


class TerminalProgress(ProgressBase):
    """Draws on stderr, so that stdout holds results only. Use as a context manager."""

    def __init__(self) -> None:
        self._console = console(stderr=True)
        self._shown = not is_quiet()
        self._live = self._shown and self._console.is_terminal and not self._console.is_dumb_terminal
        roomy = self._console.width >= NARROW
        self._course = roomy and not self._console.options.ascii_only
        self._bar = Progress(
            TextColumn("  {task.description}", style="cyan", markup=False, table_column=_one_line()),
            BarColumn(bar_width=16 if roomy else 8),
            MofNCompleteColumn(table_column=_one_line()),
            TimeRemainingColumn(compact=True, elapsed_when_finished=True, table_column=_one_line()),
            _Metric(with_course=self._course),
            console=self._console,
            transient=True,
            disable=not self._live,
        )
        self._task: TaskID | None = None
        self._began: float | None = None
        self._title = ""
        self._stages = self._number = 0
        self._label, self._total, self._done = "", 0, 0
        self._metric, self._readings = "", list[float]()
        self._due = self._loop_began = 0.0

    def __enter__(self) -> TerminalProgress:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._finish(ok=kind is None)
        self._bar.stop()

    def expect(self, stages: int) -> None:
        self._stages, self._number = stages, 0

    def stage(self, title: str) -> None:
        self._finish(ok=True)
        self._number += 1
        self._title = f"{self._number}/{self._stages} {title}" if self._stages else title
        self._began = time.monotonic()
        self._metric, self._readings = "", []
        if not self._live:
            self._say(self._title)

    def start(self, label: str, total: int) -> None:
        self._drop()
        self._label, self._total, self._done = label, total, 0
        self._metric, self._readings = "", []
        self._loop_began = time.monotonic()
        self._due = self._loop_began + SAY_EVERY_S
        if self._live:
            text = f"{self._title}: {label}" if self._title else label
            self._task = self._bar.add_task(text, total=total, metric="", readings=self._readings)

    def advance(self, steps: int = 1, metric: str = "") -> None:
        self._done += steps
        if metric:
            self._metric = metric
            if (number := re.search(r"-?\d+(\.\d+)?", metric)) is not None:
                self._readings.append(float(number[0]))
        if self._task is not None:
            self._bar.update(self._task, advance=steps, metric=self._metric)
        elif time.monotonic() >= self._due and self._total:
            self._due = time.monotonic() + SAY_EVERY_S
            self._say(f"  {self._label} {self._done}/{self._total}{self._left()}  {self._metric}".rstrip())

    def warn(self, message: str) -> None:
        if self._shown:
            self._console.print(f"warning: {message}", style="yellow", markup=False)

    def _left(self) -> str:
        """What the rest of the loop will take, if it goes on like this."""
        if not 0 < self._done < self._total:
            return ""
        seconds = (time.monotonic() - self._loop_began) / self._done * (self._total - self._done)
        return f", about {seconds:.0f} s left"

    def _say(self, line: str) -> None:
        if self._shown:
            self._console.print(line, markup=False)

    def _finish(self, *, ok: bool) -> None:
        self._drop()
        if self._began is None:
            return
        seconds = time.monotonic() - self._began
        course = sparkline(self._readings) if self._course and len(self._readings) > 2 else ""
        told = "  ".join(filter(None, [f"{seconds:.1f} s", self._metric, course]))
        if self._live:
            mark = Text("done ", "green") if ok else Text("stopped ", "red")
            line = mark + Text(self._title + "  ") + Text(told, "dim")
            self._console.print(line, no_wrap=True, overflow="ellipsis", crop=True)
        elif ok and (seconds >= WORTH_SAYING_S or self._metric):
            self._say(f"  {told}")
        self._began = None

    def _drop(self) -> None:
        if self._task is not None:
            self._bar.remove_task(self._task)
            self._task = None


def _one_line() -> Column:
    return Column(no_wrap=True, overflow="ellipsis")
