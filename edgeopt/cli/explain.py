"""`edgeopt explain`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from edgeopt.cli.complete import complete_key
from edgeopt.cli.console import console

if TYPE_CHECKING:
    from edgeopt.explain import Key
    from edgeopt.spec import Spec

__all__ = ["explain"]

DEPTH = 2
"""Levels of keys that the list shows; a stage counts for none."""


def explain(
    key: Annotated[
        str | None,
        typer.Argument(
            help="Such as quantize.preset, gate.drop, tier.max_bytes; none: list them.", autocompletion=complete_key
        ),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="List the keys of every method, too.")] = False,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="All of it as one page, as in the documentation.")
    ] = False,
) -> None:
    """Say what a key of a recipe, a limit, a tier or a device means: type, default, source, an example."""
    from edgeopt.explain import every_key, find_keys

    if markdown:
        from edgeopt.reference import to_reference

        typer.echo(to_reference(), nl=False)
        return
    if key is not None:
        _show(find_keys(key))
        return
    names = every_key()
    depths = {name: name.count(".") + 1 - name.startswith("stages.") for name in names}
    chosen = [name for name in names if everything or depths[name] <= DEPTH]
    _print_table([(name, find_keys(name)[0]) for name in chosen])
    if len(chosen) < len(names):
        console().print(
            f"\n{len(names) - len(chosen)} more with --all; `edgeopt explain KEY` tells all of one", style="dim"
        )


def _show(found: list[Key]) -> None:
    from edgeopt.explain import example

    key, terminal = found[0], console()
    terminal.print(key.name, style="bold", markup=False)
    _paragraph(f"{key.type}; {_default(key)}" if key.default else key.type)
    for text in key.description.split("\n\n"):
        _paragraph(text)
    below = _below(key)
    if below:
        terminal.print()
        _print_table([(f"  {name}", own) for name, own in below])
    for title, text in (("in its file", example(key)), ("on the command line", "\n".join(_commands(key)))):
        if text:
            terminal.print(f"\n  {title}", style="dim")
            terminal.print("\n".join(f"    {line}" for line in text.splitlines()), markup=False, soft_wrap=True)
    if len(found) > 1:
        terminal.print()
        _paragraph(f"also: {', '.join(other.name for other in found[1:])}")


def _paragraph(text: str) -> None:
    """Wrapped to the screen, two columns in; never cut."""
    import textwrap

    terminal = console()
    for line in textwrap.wrap(text, min(terminal.width, 100) - 2, break_long_words=False, break_on_hyphens=False):
        terminal.print(f"  {line}", markup=False, soft_wrap=True)


def _default(key: Key) -> str:
    return "has to be given" if key.default == "required" else f"{key.default} unless given"


def _below(key: Key) -> list[tuple[str, Key]]:
    """The keys one level further down, under the names that lead there."""
    from edgeopt.explain import every_key, find_keys

    names = [
        name for name in every_key() if name.startswith(f"{key.name}.") and name.count(".") == key.name.count(".") + 1
    ]
    return [(name.rpartition(".")[2], find_keys(name)[0]) for name in names]


def _print_table(entries: list[tuple[str, Key]]) -> None:
    """Name and first sentence of each, one line a key, cut at the screen's edge."""
    from rich.text import Text

    terminal, widest = console(), max(len(name) for name, _ in entries)
    for name, key in entries:
        told = key.description.splitlines()[0] if key.description else key.type
        line = Text.assemble((f"{name:<{widest}}", "bold"), f"  {told}")
        line.truncate(max(terminal.width, len(name)), overflow="ellipsis")
        terminal.print(line, soft_wrap=True)


def _commands(key: Key) -> list[str]:
    """How to set it without a file: the flag of the stage's own command, and `--set` of a run."""
    from edgeopt.cli.flags import flag_paths
    from edgeopt.recipe import Recipe

    if key.path[0] not in Recipe.model_fields or key.spec is not None or key.path[0] == "gate":
        return []
    commands = [f"edgeopt run RECIPE --set {key.name}=VALUE"]
    if key.path[0] == "stages" and len(key.path) > 2:
        stage = next(spec for spec in _stages() if spec.model_fields["kind"].default == key.path[1])
        flag = next((flag for flag, path in flag_paths(stage).items() if path == key.path[2:]), None)
        if flag is not None and key.path[1] != "train":
            commands.append(f"edgeopt {key.path[1]} MODEL --{flag.replace('_', '-')} VALUE")
    return commands if len(key.path) > 1 or key.path[0] == "seed" else []


def _stages() -> list[type[Spec]]:
    from edgeopt.keys import specs_in
    from edgeopt.recipe import Recipe

    return specs_in(Recipe.model_fields["stages"].annotation)
