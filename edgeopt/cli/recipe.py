"""`edgeopt recipe`: list, show, check, new, schema."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgeopt.cli import reporting
from edgeopt.cli.console import console, print_json

__all__ = ["recipe"]

recipe = typer.Typer(
    help="List, show, check and make recipes.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
)

TEMPLATE = """\
# {name}: say here what it gives, as measured, and where.
# Every key is explained by `edgeopt recipe schema`; `edgeopt recipe check {file}` reads it without running it.

model: {model}
data: {data}

stages:
  # Remove channels, prove that exactly those are gone, fine-tune with the unpruned model as teacher.
  - kind: prune
    target: {{params: -40%}}
    finetune: {{epochs: 5}}
  # INT8 with Q/DQ nodes placed as each tier's runtime wants them; tiers that take no int8 pass over it.
  - kind: quantize
    calibrator: {{kind: mse}}

tiers: [{tiers}]

# Limits that every artifact must hold; `edgeopt run` exits 1 when one does not.
gate:
  all: {{drop: 2pt}}
"""


@recipe.command("list")
@reporting
def list_() -> None:
    """The recipes that ship; `edgeopt run NAME` runs one."""
    from edgeopt.recipe import list_recipes, load_recipe

    for name in list_recipes():
        console().print(f"[bold]{name}[/]  {load_recipe(name).description}")


@recipe.command("show")
@reporting
def show(name: Annotated[str, typer.Argument(help="A recipe that ships, or a file.")]) -> None:
    """Print a recipe as it stands in its file."""
    from edgeopt.recipe import find_recipe

    typer.echo(find_recipe(name).read_text(), nl=False)


@recipe.command("check")
@reporting
def check(name: Annotated[str, typer.Argument(help="A recipe file, or one that ships.")]) -> None:
    """Read a recipe without running it; exit 2 with file, line and key when something is wrong."""
    from edgeopt.recipe import load_recipe

    loaded = load_recipe(name)
    stages = " > ".join(stage.kind for stage in loaded.stages) or "no stages"
    tiers = ", ".join(tier.name for tier in loaded.load_tiers())
    console().print(f"{loaded.name}: {loaded.model.source} > {stages} > {tiers}", markup=False)


@recipe.command("new")
@reporting
def new(
    file: Annotated[Path, typer.Argument(help="Where to write it.")],
    model: Annotated[str, typer.Option("--model", help="The network to start from.")] = "torchvision:resnet18",
    data: Annotated[str, typer.Option("--data", help="The images.")] = "digits",
    tier: Annotated[list[str] | None, typer.Option("--tier", help="Repeat for several.")] = None,
) -> None:
    """Write a commented recipe to start from."""
    from edgeopt.atomic import write_atomic
    from edgeopt.errors import UsageError
    from edgeopt.recipe import load_recipe
    from edgeopt.tiers import load_tier

    if file.exists():
        raise UsageError("exists already", where=str(file), fix="choose another name")
    tiers = tier or ["mcu", "jetson", "gpu"]
    for name in tiers:
        load_tier(name)
    text = TEMPLATE.format(name=file.stem, file=file, model=model, data=data, tiers=", ".join(tiers))
    write_atomic(file, text)
    load_recipe(file)
    console().print(f"{file}: edit it, then `edgeopt run {file}`", markup=False)


@recipe.command("schema")
@reporting
def schema() -> None:
    """The JSON schema of recipes, for editors that complete YAML."""
    from edgeopt.recipe import Recipe

    print_json(Recipe.model_json_schema())
