"""`edgeopt run`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgeopt.cli.running import OutOption, execute
from edgeopt.errors import UsageError

__all__ = ["run"]


def run(
    recipe: Annotated[str, typer.Argument(help="A recipe file, or the name of one that ships.")],
    out: OutOption = None,
    seed: Annotated[int | None, typer.Option("--seed", min=0, help="Instead of the recipe's.")] = None,
) -> None:
    """Run a recipe: its stages, an artifact for each tier, a report, the gate.

    Finished stages are kept in OUT/stages: the same command goes on where it was stopped.
    """
    from edgeopt.recipe import load_recipe

    if out is not None and out.is_file():
        raise UsageError("is a file, and --out is a folder", where=str(out))
    loaded = load_recipe(recipe)
    if seed is not None:
        loaded = loaded.model_copy(update={"seed": seed})
    execute(loaded, Path(out) if out else None)
