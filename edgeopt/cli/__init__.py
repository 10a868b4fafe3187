"""The command line. One file per command: parse, call one library function, print.

A command's module loads only when the command runs, so `edgeopt --help` needs neither torch nor onnx.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from inspect import Parameter, signature
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

__all__ = ["COMMANDS", "app", "main"]

COMMANDS = {
    "run": "Run a recipe: train, distil, prune, quantize, export, measure, gate.",
    "sweep": "Run variants of a recipe and show which of them are worth having.",
    "quantize": "INT8-quantize a model.",
    "distill": "Train a small student from a teacher.",
    "prune": "Remove channels from a model and fine-tune the rest.",
    "export": "Write a model as the artifact of a tier.",
    "measure": "Measure accuracy, latency and size of models, side by side.",
    "sensitivity": "Rank the layers by what int8 costs them, and say which to exclude.",
    "inspect": "Show what is in a model: layers, sizes, MACs, peak RAM, what a tier would say.",
    "report": "Show a finished report as a table, markdown, HTML or JSON.",
    "verify": "Build a model's C program, run it, compare it with onnxruntime; sizes, instructions.",
    "gate": "Check a report or a model against limits; exit 1 when one is exceeded.",
    "compare": "Show what changed between two reports, or between two models.",
    "recipe": "List, show, check and make recipes.",
    "explain": "Say what a key of a recipe, a tier or a device means, with an example.",
    "tiers": "List the tiers and their limits.",
    "doctor": "Say what this machine has and what is missing.",
}
"""Command name -> one line of help. `edgeopt/cli/NAME.py` has a function or a `typer.Typer` of that name."""


class LazyGroup(TyperGroup):
    """Knows every command's name and one-line help, and imports a command's module only to run it."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS:
            return None
        return TyperCommand(cmd_name, help=COMMANDS[cmd_name])

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, command, rest = super().resolve_command(ctx, args)
        try:
            return name, load_command(str(name)) if command is not None else None, rest
        except KeyboardInterrupt as error:  # while its modules load
            raise typer.Exit(130) from error


def load_command(name: str) -> Any:
    """The real command. Errors of the library become one sentence and an exit code."""
    entry = getattr(importlib.import_module(f"edgeopt.cli.{name}"), name)
    if not isinstance(entry, typer.Typer):
        single = typer.Typer(add_completion=False, rich_markup_mode="rich", pretty_exceptions_enable=False)
        single.command(name, help=COMMANDS[name] if not entry.__doc__ else None)(reporting(entry))
        entry = single
    command = typer.main.get_command(entry)
    command.name = name
    return command


def reporting(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, with EdgeoptError printed as a sentence on stderr and turned into its exit code."""

    @functools.wraps(function)
    def command(*args: Any, **options: Any) -> None:
        from edgeopt.cli.console import quietly
        from edgeopt.errors import EdgeoptError

        try:
            with quietly(options.pop(QUIET.name, False)):
                function(*args, **options)
        except EdgeoptError as error:
            typer.echo(_folded(f"edgeopt: {error}"), err=True)
            raise typer.Exit(error.exit_code) from error
        except KeyboardInterrupt as error:
            typer.echo("\nedgeopt: stopped; nothing was written, the same command starts again", err=True)
            raise typer.Exit(130) from error

    shape = signature(function, eval_str=True)
    parameters = [p.replace(kind=Parameter.KEYWORD_ONLY) for p in shape.parameters.values()]
    shape = shape.replace(parameters=[*parameters, QUIET])
    command.__signature__ = shape  # type: ignore[attr-defined]
    command.__annotations__ = {name: p.annotation for name, p in shape.parameters.items()}
    return command


def _folded(sentence: str) -> str:
    """Broken between words for a person at a terminal; elsewhere one line, for `grep`. No control characters."""
    import re
    import shutil
    import sys
    import textwrap

    sentence = re.sub("[\x00-\x08\x0b-\x1f\x7f-\x9f]", "�", sentence)
    if not sys.stderr.isatty():
        return sentence
    width = shutil.get_terminal_size().columns
    wrap = textwrap.TextWrapper(width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
    return "\n".join(map(wrap.fill, sentence.splitlines()))


QUIET = Parameter(
    "quiet",
    Parameter.KEYWORD_ONLY,
    default=False,
    annotation=Annotated[
        bool, typer.Option("--quiet", "-q", help="No progress and no warnings; of a run, the verdict alone.")
    ],
)
"""What every command takes."""


app = typer.Typer(
    cls=LazyGroup,
    name="edgeopt",
    help="Make a trained network fit the place where it will run.",
    rich_markup_mode="rich",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        from edgeopt import __version__

        typer.echo(f"edgeopt {__version__}")
        raise typer.Exit


@app.callback()
def edgeopt(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Make a trained network fit the place where it will run."""


def main() -> None:
    """Entry point of the `edgeopt` command."""
    app()
