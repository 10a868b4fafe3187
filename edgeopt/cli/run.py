"""`edgeopt run`."""

from __future__ import annotations

from typing import Annotated

import typer

from edgeopt.cli.complete import complete_recipe, complete_setting
from edgeopt.cli.running import OutOption, execute, folder_of, read_setting
from edgeopt.cli.scale import DevicesOption, NodesOption, StrategyOption, spread
from edgeopt.errors import UsageError

__all__ = ["run"]


def run(
    recipe: Annotated[
        str, typer.Argument(help="A recipe file, or the name of one that ships.", autocompletion=complete_recipe)
    ],
    out: OutOption = None,
    seed: Annotated[int | None, typer.Option("--seed", min=0, help="Instead of the recipe's.")] = None,
    sets: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Instead of the recipe's: data.limit=500, stages.prune.target.params=-50%, stages.0.fit.epochs=5",
            autocompletion=complete_setting,
        ),
    ] = None,
    devices: DevicesOption = None,
    nodes: NodesOption = None,
    strategy: StrategyOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done, for how long, and what is there already.")
    ] = False,
) -> None:
    """Run a recipe: its stages, an artifact for each tier, a report, the gate.

    Finished stages are kept in OUT/stages: the same command goes on where it was stopped.
    """
    from edgeopt.recipe import load_recipe

    if out is not None and out.is_file():
        raise UsageError("is a file, and --out is a folder", where=str(out))
    entries = [read_setting(entry, "--set") for entry in sets or []]
    loaded = load_recipe(recipe, entries if seed is None else [*entries, ("seed", seed)])
    loaded = spread(loaded, devices, nodes, strategy)
    if dry_run:
        from edgeopt.cli.plan import show_plan

        show_plan(loaded, folder_of(loaded, out))
    else:
        execute(loaded, out)
