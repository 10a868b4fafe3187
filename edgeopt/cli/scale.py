"""`--devices`, `--nodes` and `--strategy` of a whole recipe: every training of it gets them."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

import typer

from edgeopt.recipe import Recipe
from edgeopt.spec import Spec
from edgeopt.train.crew import torchrun_shape, under_torchrun
from edgeopt.train.settings import Fit

__all__ = ["DevicesOption", "NodesOption", "StrategyOption", "as_started", "spread"]

S = TypeVar("S", bound=Spec)

DevicesOption = Annotated[
    int | None,
    typer.Option("--devices", min=1, help="GPUs of each machine, or processes on its CPU."),
]
NodesOption = Annotated[
    int | None, typer.Option("--nodes", min=1, help="Machines, each with this command under torchrun.")
]
StrategyOption = Annotated[
    Literal["ddp", "fsdp"] | None, typer.Option("--strategy", help="Every device has the network, or a part of it.")
]


def spread(recipe: Recipe, devices: int | None, nodes: int | None, strategy: str | None) -> Recipe:
    """The recipe with what is given instead of what its trainings say."""
    given = {"devices": devices, "nodes": nodes, "strategy": strategy}
    changes = {name: value for name, value in given.items() if value is not None}
    return recipe.model_copy(update={"stages": tuple(_with(stage, changes) for stage in recipe.stages)})


def as_started(recipe: Recipe) -> Recipe:
    """Under torchrun the recipe with the processes that it started, where the recipe leaves them open."""
    if not under_torchrun():
        return recipe
    fits = [fit for stage in recipe.stages for fit in _fits(stage)]
    if any(fit.processes > 1 for fit in fits):
        return recipe
    return spread(recipe, *torchrun_shape(), None)


def _with(spec: S, changes: dict[str, Any]) -> S:
    """`spec` with the changes in every Fit in it."""
    inner = {name: _with(value, changes) for name, value in spec if isinstance(value, Spec)}
    return spec.model_copy(update=inner | (changes if isinstance(spec, Fit) else {}))


def _fits(spec: Spec) -> list[Fit]:
    inside = [fit for _, value in spec if isinstance(value, Spec) for fit in _fits(value)]
    return [*([spec] if isinstance(spec, Fit) else []), *inside]
