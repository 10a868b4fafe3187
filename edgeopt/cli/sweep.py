"""`edgeopt sweep`."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.text import Text

from edgeopt.cli.complete import complete_recipe, complete_setting
from edgeopt.cli.console import console, is_quiet
from edgeopt.cli.running import read_setting
from edgeopt.errors import Interrupted, StageFailed, UsageError
from edgeopt.report.figures import duration
from edgeopt.sweep import Plan, Show, plan_sweep
from edgeopt.sweep.show import Status
from edgeopt.train.crew import under_torchrun

__all__ = ["sweep"]

PHASES = {
    "make": "{} to make side by side",
    "measure": "{} to measure, one after another",
    "run": "{} to run, one after another",
}


def sweep(
    recipe: Annotated[
        str, typer.Argument(help="A recipe file, or the name of one that ships.", autocompletion=complete_recipe)
    ],
    vary: Annotated[
        list[str],
        typer.Option(
            "--vary",
            metavar="KEY=A,B,...",
            help="A key and its values: stages.prune.target.params=-20%,-40%; repeat for every combination.",
            autocompletion=complete_setting,
        ),
    ],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for the variants; otherwise out/RECIPE-sweep.")
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", min=0, help="Instead of the recipe's.")] = None,
    sets: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="For all, as for `edgeopt run`.", autocompletion=complete_setting
        ),
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option("--jobs", "-j", min=1, help="Variants at once; 1: without Ray. None: one a core, or one a GPU."),
    ] = None,
    address: Annotated[
        str | None, typer.Option("--address", help="Of a Ray cluster, as in `ray start`; otherwise this machine.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say which variants there are, and which are finished.")
    ] = False,
) -> None:
    """Run variants of a recipe and show which of them are worth having.

    Each is an ordinary run in its folder of OUT, made side by side on Ray, then measured one after another. The same
    command goes on where it was stopped. Exits 3 when a variant failed.
    """
    if out is not None and out.is_file():
        raise UsageError("is a file, and --out is a folder", where=str(out))
    if under_torchrun():
        raise UsageError("a sweep starts its own processes", where="torchrun", fix="start it without; see --jobs")
    entries = [read_setting(entry, "--set") for entry in sets or []]
    plan = plan_sweep(recipe, _read_varied(vary), entries if seed is None else [*entries, ("seed", seed)])
    folder = out or Path("out") / f"{plan.name}-sweep"
    if dry_run:
        _show_plan(plan, folder)
        return
    _run(plan, folder, jobs, address)


def _run(plan: Plan, folder: Path, jobs: int | None, address: str | None) -> None:
    from edgeopt.sweep import sweep as run_sweep
    from edgeopt.sweep.parallel import has_ray
    from edgeopt.sweep.run import finished_in
    from edgeopt.sweep.views import to_terminal

    terminal = console()
    try:
        with _Display() as display:
            if jobs is None and address is None and not has_ray():
                display.say("without Ray variants run one after another; `pip install 'edgeopt[ray]'` for more at once")
                jobs = 1
            command = "edgeopt " + shlex.join(sys.argv[1:])
            result = run_sweep(plan, folder, jobs=jobs, address=address, show=display, command=command)
    except KeyboardInterrupt as error:
        done = f"{len(finished_in(plan, folder))} of {len(plan.variants)} variants are finished"
        raise Interrupted(f"stopped; {done}", where=str(folder), fix="the same command goes on") from error
    for part in to_terminal(result) if not is_quiet() else []:
        terminal.print(part, soft_wrap=isinstance(part, Text))
    failed = [row.name for row in result.variants if row.state == "failed"]
    terminal.print(
        f"{len(result.variants) - len(failed)} of {len(result.variants)} variants: {folder / 'sweep.html'}",
        soft_wrap=True,
    )
    if failed:
        raise StageFailed(
            f"{len(failed)} of {len(result.variants)} variants failed: {'; '.join(failed)}", where=str(folder)
        )


def _read_varied(entries: list[str]) -> dict[str, list[Any]]:
    """`key=a,b` as key -> values, each read as YAML. Raises UsageError."""
    import yaml

    varied: dict[str, list[Any]] = {}
    for entry in entries:
        key, equals, text = entry.partition("=")
        if not key or not equals:
            raise UsageError(f"{entry!r} is not KEY=A,B,...", where="--vary")
        if key in varied:
            raise UsageError("stands twice", where=f"--vary {key}", fix="give all its values at once: key=a,b,c")
        try:
            varied[key] = list(yaml.safe_load(f"[{text}]"))
        except yaml.YAMLError as error:
            raise UsageError(f"{text!r} are no values", where=f"--vary {key}") from error
    return varied


def _show_plan(plan: Plan, folder: Path) -> None:
    from edgeopt.sweep.run import finished_in

    finished = set(finished_in(plan, folder))
    terminal = console()
    terminal.print(
        f"{plan.name}: {len(plan.variants)} variants, {len(finished)} finished; nothing is run", markup=False
    )
    for variant in plan.variants:
        state = Text("finished  ", "green") if variant.name in finished else Text("to run    ")
        terminal.print(state + variant.name, soft_wrap=True)


class _Display(Show):
    """A line for each variant that runs, and one that stays for each that is done; without a terminal plain lines."""

    def __init__(self) -> None:
        self._console = console(stderr=True)
        self._shown = not is_quiet()
        live = self._shown and self._console.is_terminal and not self._console.is_dumb_terminal
        self._bars = Progress(
            TextColumn("  {task.description}", style="cyan", markup=False),
            BarColumn(bar_width=16),
            MofNCompleteColumn(),
            TextColumn("{task.fields[metric]}", style="dim", markup=False),
            console=self._console,
            transient=True,
            disable=not live,
        )
        self._live = live
        self._tasks: dict[str, TaskID] = {}
        self._count = self._done = 0

    def __enter__(self) -> _Display:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def say(self, line: str | Text) -> None:
        """A line that stays."""
        if self._shown:
            self._console.print(line, markup=False, soft_wrap=True)

    def begin(self, phase: str, variants: int, reused: int) -> None:
        self._count, self._done = variants, 0
        before = f", {reused} finished before" if reused else ""
        if variants or reused:
            self.say(PHASES[phase].format(f"{variants} variant{'' if variants == 1 else 's'}") + before)

    def started(self, name: str) -> None:
        if self._live:
            self._tasks[name] = self._bars.add_task(name, total=None, metric="")
        else:
            self.say(f"begins {name}")

    def moved(self, name: str, status: Status) -> None:
        if name in self._tasks:
            title = f"{name}  {status.number}/{status.stages} {status.title}"
            self._bars.update(
                self._tasks[name],
                description=title,
                total=status.total or None,
                completed=status.done,
                metric=status.metric,
            )

    def ended(self, name: str, seconds: float, error: str, told: str) -> None:
        if name in self._tasks:
            self._bars.remove_task(self._tasks.pop(name))
        self._done += 1
        mark = Text("FAILED ", "bold red") if error else Text("done ", "green")
        count = f"{self._done}/{self._count} {name}  "
        self.say(
            mark + count + Text("  ".join(filter(None, [duration(seconds), error or told])), "" if error else "dim")
        )
