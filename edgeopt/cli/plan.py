"""`edgeopt run --dry-run`: the plan on the screen."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edgeopt.cli.console import TerminalProgress, console
from edgeopt.report.figures import duration
from edgeopt.units import format_bytes

if TYPE_CHECKING:
    from edgeopt.plan import Plan, PlannedStep
    from edgeopt.recipe import Recipe

__all__ = ["show_plan"]

MEANS = {
    "last time": "what such stages took here last time",
    "timed now": "a forward pass timed now",
    "rule of thumb": "a rule of thumb",
}
STYLES = {"reused": "green", "goes on": "yellow", "new": ""}


def show_plan(recipe: Recipe, out: Path) -> None:
    """Print what a run of `recipe` into `out` would do. Nothing is written. Raises EdgeoptError."""
    import textwrap

    from rich.text import Text

    from edgeopt.plan import make_plan

    with TerminalProgress() as progress:
        plan = make_plan(recipe, out, progress)
    terminal = console()
    terminal.print(f"{recipe.name}: nothing is run or written", markup=False)
    terminal.print()
    titles = [f"{number} {step.title}" for number, step in enumerate(plan.steps, 1)]
    widest = max(map(len, titles))
    for title, step in zip(titles, plan.steps, strict=True):
        about = "" if step.state == "reused" else duration(step.seconds)
        line = Text(f"{title:<{widest}}  {about:>10}  ") + Text(f"{step.state:<7}", STYLES[step.state])
        terminal.print(line + Text(f"  {step.work}", "dim"), no_wrap=True, overflow="ellipsis")
        for part in textwrap.wrap(_settings(step), min(terminal.width, 100) - 4, break_long_words=False):
            terminal.print(f"    {part}", style="dim", markup=False, soft_wrap=True)
    terminal.print()
    for name, text in _needs(plan):
        for number, part in enumerate(textwrap.wrap(text, min(terminal.width, 100) - 8)):
            terminal.print(f"{'' if number else name:<8}{part}", markup=False, soft_wrap=True)
    for number, path in enumerate(plan.writes):
        terminal.print(f"{'' if number else 'writes':<8}{path}", markup=False, soft_wrap=True)


def _settings(step: PlannedStep) -> str:
    return ", ".join(f"{key} {value}" for key, value in step.settings.items())


def _needs(plan: Plan) -> list[tuple[str, str]]:
    bases = dict.fromkeys(step.basis for step in plan.steps if step.seconds)
    reused = sum(step.state == "reused" for step in plan.steps)
    return [
        ("time", f"about {duration(plan.seconds)}, from {' and '.join(MEANS[basis] for basis in bases)}"),
        ("reused", f"{reused} of {len(plan.steps)} steps"),
        ("memory", f"about {format_bytes(plan.memory_bytes)}"),
        ("disk", f"about {format_bytes(plan.disk_bytes)} of {format_bytes(plan.free_bytes)} free"),
    ]
