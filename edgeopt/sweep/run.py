"""The story of a sweep: make the stages of all variants side by side, then measure one after another, then compare.

Timings taken while others compute are worth nothing. So the processes on Ray only make models; when they are gone, each
variant is run as `edgeopt run` would run it, alone, and finds all its stages on disk: what it does is measure.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from edgeopt.atomic import write_atomic
from edgeopt.store import locked
from edgeopt.sweep.alone import run_alone
from edgeopt.sweep.parallel import prepare_all
from edgeopt.sweep.result import Sweep, brief, find_report, fronts_of, row_of
from edgeopt.sweep.show import Show, read_status
from edgeopt.sweep.variants import Plan, Variant
from edgeopt.sweep.work import Task

__all__ = ["finished_in", "sweep"]


def sweep(
    plan: Plan,
    out: Path,
    *,
    jobs: int | None = None,
    address: str | None = None,
    show: Show | None = None,
    command: str = "",
) -> Sweep:
    """Run the variants of `plan`, each in a folder of `out`; leave `sweep.json`, `.md` and `.html` there.

    `jobs`: variants at once (1: no Ray; None: one a core). A variant whose report is there is not run again; one that
    was stopped goes on. A variant that fails is named and the others go on. Raises UsageError, and on Ctrl-C
    KeyboardInterrupt after what is finished was written down.
    """
    show = show or Show()
    with locked(out):
        running = _Running(plan, out, show)
        try:
            running.make(jobs, address)
            running.measure()
        finally:
            result = running.result(command)
            write_sweep(result, out)
    return result


def finished_in(plan: Plan, out: Path) -> list[str]:
    """Names of the variants that are finished in `out`."""
    return [variant.name for variant in plan.variants if find_report(variant, out)]


def write_sweep(result: Sweep, out: Path) -> None:
    """Write `sweep.md`, `sweep.html` and `sweep.json` into `out`, each atomically, the last one last."""
    from edgeopt.sweep.page import to_html
    from edgeopt.sweep.views import to_markdown

    write_atomic(out / "sweep.md", to_markdown(result))
    write_atomic(out / "sweep.html", to_html(result))
    write_atomic(out / "sweep.json", result.to_json())


class _Running:
    """What is left to do, and what failed."""

    def __init__(self, plan: Plan, out: Path, show: Show) -> None:
        self.plan, self.out, self.show = plan, out, show
        found = {variant.name: find_report(variant, out) for variant in plan.variants}
        self.reports = {name: report for name, report in found.items() if report is not None}
        self.failed: dict[str, str] = {}
        self.phase = "run"

    @property
    def left(self) -> list[Variant]:
        """Neither finished nor failed, in the order of the plan."""
        return [own for own in self.plan.variants if own.name not in self.reports and own.name not in self.failed]

    def make(self, jobs: int | None, address: str | None) -> None:
        """The stages of all that are left, side by side."""
        left = self.left
        if not left or (address is None and (jobs == 1 or len(left) == 1)):
            return
        self._begin("make", left)
        prepare_all(
            {own.name: self._task(own) for own in left}, jobs, address, self.show.started, self._moved, self._made
        )
        self.phase = "measure"

    def measure(self) -> None:
        """Each variant that is left, alone on the machine."""
        left = self.left
        self._begin(self.phase, left)
        for variant in left:
            began = time.monotonic()
            self.show.started(variant.name)
            error = run_alone(self._task(variant), partial(self._moved, variant.name))
            report = find_report(variant, self.out)
            if report is None:
                self.failed[variant.name] = error or "left no report"
            else:
                self.reports[variant.name] = report
            self.show.ended(variant.name, time.monotonic() - began, self.failed.get(variant.name, ""), brief(report))

    def result(self, command: str) -> Sweep:
        """All that is known, in the order of the plan."""
        rows = tuple(
            row_of(variant, self.reports.get(variant.name), self.failed.get(variant.name, ""))
            for variant in self.plan.variants
        )
        return Sweep(
            name=self.plan.name,
            recipe=self.plan.reference,
            command=command,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            varied={key: tuple(values) for key, values in self.plan.varied.items()},
            variants=rows,
            fronts=fronts_of(rows),
        )

    def _begin(self, phase: str, left: Sequence[Variant]) -> None:
        self.show.begin(phase, len(left), len(self.reports))

    def _task(self, variant: Variant) -> Task:
        folder = self.out / variant.name
        command = shlex.join(["edgeopt", "run", *variant.arguments, "--out", str(folder)])
        return Task(variant.recipe, folder, command)

    def _moved(self, name: str) -> None:
        status = read_status(self.out / name)
        if status is not None:
            self.show.moved(name, status)

    def _made(self, name: str, seconds: float, error: str) -> None:
        if error:
            self.failed[name] = error
        self.show.ended(name, seconds, error, "")
