"""What the commands that produce artifacts have in common: run a recipe, show its rows, fail on its gate."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from edgeopt.cli.complete import complete_tier
from edgeopt.cli.console import TerminalProgress, console, is_quiet
from edgeopt.errors import GateFailed, Interrupted, UsageError
from edgeopt.model.reference import ModelRef
from edgeopt.recipe import Recipe, problem

__all__ = [
    "Common",
    "DataOption",
    "ModelArgument",
    "ModelSettingOption",
    "OutOption",
    "SeedOption",
    "SetOption",
    "TierOption",
    "WeightsOption",
    "execute",
    "folder_of",
    "read_setting",
    "read_settings",
    "run_stages",
]

ModelArgument = Annotated[
    str, typer.Argument(metavar="MODEL", help="x.onnx, x.pt2, torchvision:NAME, timm:NAME or net.py:factory")
]
DataOption = Annotated[
    str | None,
    typer.Option("--data", "-d", help="digits, a folder of images, x.npz, torchvision:CIFAR10 or data.py:factory"),
]
TierOption = Annotated[
    list[str] | None,
    typer.Option(
        "--tier",
        "-t",
        help="mcu, jetson, gpu, or the file of your own; repeat for several",
        autocompletion=complete_tier,
    ),
]
OutOption = Annotated[Path | None, typer.Option("--out", "-o", help="Folder for artifacts and report.")]
WeightsOption = Annotated[
    str | None,
    typer.Option("--weights", help="x.safetensors or x.pt for a network built from code; none: random"),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Any other setting, as in a recipe: a.b=c"),
]
ModelSettingOption = Annotated[
    list[str] | None,
    typer.Option(
        "--model-setting", metavar="KEY=VALUE", help="For a network built from code: num_classes=10, width=0.5 ..."
    ),
]
SeedOption = Annotated[int, typer.Option("--seed", min=0, help="Of every random choice.")]


@dataclass(frozen=True)
class Common:
    """What every command takes that runs one stage on one model."""

    model: ModelArgument
    data: DataOption = None
    tier: TierOption = None
    out: OutOption = None
    weights: WeightsOption = None
    seed: SeedOption = 0
    sets: SetOption = None
    settings: ModelSettingOption = None


def run_stages(command: str, common: Common, stages: tuple[Any, ...]) -> None:
    """Run the recipe that a single-stage command stands for. Raises EdgeoptError."""
    from pydantic import ValidationError

    from edgeopt.data.spec import DataSpec

    name = Path(common.model.rpartition(":")[2]).stem or "model"
    try:
        recipe = Recipe(
            name=f"{command}-{name}",
            model=ModelRef(
                source=common.model,
                weights=common.weights,
                settings=read_settings(common.settings),
            ),
            data=DataSpec(source=common.data) if common.data else None,
            stages=stages,
            tiers=tuple(common.tier or ()),
            seed=common.seed,
        )
    except ValidationError as error:
        first = error.errors()[0]
        raise UsageError(problem(first), where=".".join(map(str, first["loc"]))) from error
    execute(recipe, common.out)


def read_settings(entries: list[str] | None) -> dict[str, Any]:
    """The entries of `--model-setting` as arguments of the network's constructor. Raises UsageError."""
    return dict(read_setting(entry, "--model-setting") for entry in entries or [])


def read_setting(entry: str, flag: str) -> tuple[str, Any]:
    """`"a.b=0.5"` -> `("a.b", 0.5)`; values are read as YAML. Raises UsageError."""
    import yaml

    key, equals, text = entry.partition("=")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UsageError(f"{text!r} is not a value", where=f"{flag} {key}") from error
    if not key or not equals:
        raise UsageError(f"{entry!r} is not KEY=VALUE", where=flag)
    return key, value


def execute(recipe: Recipe, out: Path | None) -> None:
    """Run it with a live display, and say what came out; with --quiet the verdict alone.

    Of the processes that torchrun started the first does all that, and the others take part in its trainings.
    Raises GateFailed when a limit does not hold, Interrupted on Ctrl-C.
    """
    from edgeopt.cli.scale import as_started
    from edgeopt.cli.summary import summarize, verdict_line
    from edgeopt.gate import doubts
    from edgeopt.pipeline import run
    from edgeopt.train.crew import leading, serve, waits

    if waits():
        serve()
        return
    folder, command = folder_of(recipe, out), "edgeopt " + shlex.join(sys.argv[1:])
    try:
        with leading(), TerminalProgress() as progress:
            report = run(as_started(recipe), folder, progress=progress, command=command)
    except KeyboardInterrupt as error:
        raise Interrupted(
            "stopped", where=str(folder), fix="the same command goes on from the last finished stage or epoch"
        ) from error
    terminal = console()
    for line in [verdict_line(report)] if is_quiet() else summarize(report, folder, terminal.width):
        terminal.print(line, soft_wrap=isinstance(line, Text))
    failed = [verdict for verdict in report.gate if not verdict.ok]
    if failed:
        raise GateFailed(
            f"{len(failed)} of {len(report.gate)} limits do not hold{doubts(report.gate)}",
            where=str(folder / "report.json"),
        )


def folder_of(recipe: Recipe, out: Path | None) -> Path:
    """Where a run leaves its files."""
    return out or Path("out") / recipe.name
