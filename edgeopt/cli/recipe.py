"""`edgeopt recipe`: list, show, check, new, schema."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from edgeopt.cli import reporting
from edgeopt.cli.complete import complete_recipe, complete_setting, complete_tier
from edgeopt.cli.console import console, hanging, print_json

__all__ = ["recipe"]

recipe = typer.Typer(
    help="List, show, check and make recipes.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
)

NameArgument = Annotated[
    str, typer.Argument(help="A recipe file, or the name of one that ships.", autocompletion=complete_recipe)
]
SetsOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="As for `edgeopt run`.", autocompletion=complete_setting),
]
SCHEMA_FILE = "recipe.schema.json"


@recipe.command("list")
@reporting
def list_() -> None:
    """The recipes that ship; `edgeopt run NAME` runs one."""
    from edgeopt.recipe import list_recipes, load_recipe

    terminal = console()
    for name in list_recipes():
        told = load_recipe(name).description
        terminal.print(hanging(Text(f"{name}  ", "bold"), told, min(terminal.width, 100)), soft_wrap=True)


@recipe.command("show")
@reporting
def show(
    name: NameArgument,
    merged: Annotated[
        bool, typer.Option("--merged", help="What it says in the end, with what it extends and --set.")
    ] = False,
    sets: SetsOption = None,
) -> None:
    """Print a recipe as it stands in its file, or with --merged as it is read."""
    from edgeopt.recipe import find_recipe, load_recipe, read_layers

    path = find_recipe(name)
    if not merged and not sets:
        typer.echo(path.read_text(encoding="utf-8"), nl=False)
        return
    import yaml

    load_recipe(path, _entries(sets))
    content = read_layers(path, _entries(sets)).plain()
    typer.echo(yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=100), nl=False)


@recipe.command("check")
@reporting
def check(name: NameArgument, sets: SetsOption = None) -> None:
    """Read a recipe without running it; exit 2 with file, line and key when something is wrong."""
    from edgeopt.recipe import load_recipe

    loaded = load_recipe(name, _entries(sets))
    stages = " > ".join(stage.kind for stage in loaded.stages) or "no stages"
    tiers = ", ".join(tier.name for tier in loaded.load_tiers())
    terminal = console()
    told = hanging(Text(f"{loaded.name}: "), f"{loaded.model.source} > {stages} > {tiers}", terminal.width)
    terminal.print(told, soft_wrap=True)


@recipe.command("new")
@reporting
def new(
    file: Annotated[Path | None, typer.Argument(help="Where to write it; also --out.")] = None,
    model: Annotated[str | None, typer.Option("--model", help="The network to start from, as MODEL.")] = None,
    data: Annotated[str | None, typer.Option("--data", help="The images, as DATA.")] = None,
    tier: Annotated[
        list[str] | None,
        typer.Option("--tier", "-t", help="Repeat for several.", autocompletion=complete_tier),
    ] = None,
    goal: Annotated[
        str | None,
        typer.Option("--goal", metavar="[int8|small|accurate|train]", help="What it is for; none: int8, or train."),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Where to write it.")] = None,
    schema: Annotated[
        bool, typer.Option("--schema", help=f"Write {SCHEMA_FILE} beside it, so that editors complete and check.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Write over a file that is there.")] = False,
) -> None:
    """Write a commented recipe to start from. On a terminal it asks for what is not given."""
    from edgeopt.atomic import write_atomic
    from edgeopt.errors import UsageError
    from edgeopt.recipe import load_recipe
    from edgeopt.starter import write_recipe

    asks = sys.stdin.isatty() and sys.stdout.isatty() and (model is None or data is None)
    model, data, tiers, goal = _ask(model, data, tier, goal) if asks else (model, data, tier or ["mcu"], goal)
    if model is None or data is None:
        raise UsageError("a recipe needs a model and images", fix="give --model and --data, or answer on a terminal")
    place = out or file or (Path(typer.prompt("File", default="recipe.yaml")) if asks else Path("recipe.yaml"))
    if place.exists() and not force:
        raise UsageError("exists already", where=str(place), fix="choose another name, or --force")
    goal = goal or ("train" if model.startswith("edgeopt:") else "int8")
    write_atomic(place, write_recipe(place, model, data, tiers, goal, SCHEMA_FILE if schema else ""))
    load_recipe(place)
    if schema:
        write_atomic(place.with_name(SCHEMA_FILE), _schema_text())
    console().print(f"{place}: edit it, then `edgeopt run {place}`", markup=False, soft_wrap=True)


def _ask(
    model: str | None, data: str | None, tier: list[str] | None, goal: str | None
) -> tuple[str, str, list[str], str]:
    """What was not given, from the person at the terminal; Enter takes what stands in brackets."""
    from edgeopt.starter import GOALS
    from edgeopt.tiers import list_tiers

    say = console()
    if model is None:
        say.print("x.onnx, x.pt2, torchvision:NAME, timm:NAME, edgeopt:NAME or net.py:factory", style="dim")
        model = typer.prompt("Model", default="edgeopt:residual")
    if data is None:
        say.print("digits, a folder of images, x.npz, torchvision:CIFAR10 or data.py:factory", style="dim")
        data = typer.prompt("Images", default="digits")
    if tier is None:
        say.print(f"{', '.join(list_tiers())}, or files of your own; several with commas", style="dim")
        tier = [name.strip() for name in typer.prompt("Tiers", default="mcu").split(",") if name.strip()]
    if goal is None:
        for name, known in GOALS.items():
            say.print(f"{name:<9}{known.description}", style="dim", markup=False)
        goal = typer.prompt("Goal", default="train" if model.startswith("edgeopt:") else "int8")
    return model, data, tier, goal


@recipe.command("schema")
@reporting
def schema() -> None:
    """The JSON schema of recipes, for editors that complete YAML."""
    from edgeopt.recipe import recipe_schema

    print_json(recipe_schema())


def _schema_text() -> str:
    import json

    from edgeopt.recipe import recipe_schema

    return json.dumps(recipe_schema(), indent=2) + "\n"


def _entries(sets: list[str] | None) -> list[tuple[str, object]]:
    from edgeopt.cli.running import read_setting

    return [read_setting(entry, "--set") for entry in sets or []]
