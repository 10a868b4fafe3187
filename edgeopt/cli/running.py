"""What the commands that produce artifacts have in common: run a recipe, show its rows, fail on its gate."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from edgeopt.cli.console import TerminalProgress, console
from edgeopt.errors import GateFailed, UsageError
from edgeopt.model.reference import ModelRef
from edgeopt.recipe import Recipe

__all__ = [
    "DataOption",
    "ModelArgument",
    "OutOption",
    "SeedOption",
    "SetOption",
    "TierOption",
    "WeightsOption",
    "execute",
    "model_reference",
    "one_stage",
]

ModelArgument = Annotated[
    str, typer.Argument(metavar="MODEL", help="x.onnx, x.pt2, torchvision:NAME, timm:NAME or net.py:factory")
]
DataOption = Annotated[
    str | None,
    typer.Option(
        "--data", "-d", help="digits, a folder of images, x.npz, torchvision:CIFAR10 or data.py:factory"
    ),
]
TierOption = Annotated[
    list[str] | None,
    typer.Option("--tier", "-t", help="mcu, jetson, gpu, or the file of your own; repeat for several"),
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
SeedOption = Annotated[int, typer.Option("--seed", help="Of every random choice.")]


def model_reference(model: str, weights: str | None, settings: dict[str, Any] | None = None) -> ModelRef:
    """What MODEL and --weights say together."""
    return ModelRef(source=model, weights=weights, settings=settings or {})


def one_stage(
    command: str,
    model: ModelRef,
    data: str | None,
    stages: tuple[Any, ...],
    tier: list[str] | None,
    seed: int,
) -> Recipe:
    """The recipe that a single-stage command stands for. Raises UsageError."""
    from pydantic import ValidationError

    from edgeopt.data.spec import DataSpec

    try:
        return Recipe(
            name=f"{command}-{_stem(model.source)}",
            model=model,
            data=DataSpec(source=data) if data else None,
            stages=stages,
            tiers=tuple(tier or ()),
            seed=seed,
        )
    except ValidationError as error:
        first = error.errors()[0]
        raise UsageError(first["msg"], where=".".join(map(str, first["loc"]))) from error


def execute(recipe: Recipe, out: Path | None) -> None:
    """Run it with a live display, print the rows, raise GateFailed when a limit does not hold."""
    from edgeopt.pipeline import run
    from edgeopt.report.terminal import to_terminal

    folder = out or Path("out") / recipe.name
    with TerminalProgress() as progress:
        report = run(recipe, folder, progress=progress, command="edgeopt " + shlex.join(sys.argv[1:]))
    terminal = console()
    for renderable in to_terminal(report):
        terminal.print(renderable)
    terminal.print(f"\n{folder / 'report.html'}  {folder / 'report.json'}", markup=False)
    failed = [verdict for verdict in report.gate if not verdict.ok]
    if failed:
        raise GateFailed(
            f"{len(failed)} of {len(report.gate)} limits do not hold", where=str(folder / "report.json")
        )


def _stem(source: str) -> str:
    return Path(source.rpartition(":")[2]).stem or "model"
