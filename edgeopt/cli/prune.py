"""`edgeopt prune`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from edgeopt.cli.flags import build, with_flags
from edgeopt.cli.running import (
    DataOption,
    ModelArgument,
    OutOption,
    SeedOption,
    SetOption,
    TierOption,
    WeightsOption,
    execute,
    model_reference,
    one_stage,
)
from edgeopt.prune.stage import Prune

__all__ = ["prune"]


def _prune(
    model: ModelArgument,
    flags: dict[tuple[str, ...], Any],
    data: DataOption = None,
    tier: TierOption = None,
    out: OutOption = None,
    weights: WeightsOption = None,
    seed: SeedOption = 0,
    sets: SetOption = None,
    epochs: Annotated[
        int | None, typer.Option("--epochs", min=0, help="Of fine-tuning; 0: none, and then no --data is needed.")
    ] = None,
) -> None:
    """Remove channels from a model, prove that exactly those are gone, and fine-tune the rest."""
    if epochs is not None:
        flags |= {("finetune", "epochs"): epochs} if epochs else {("finetune",): None}
    stage = build(Prune, flags, sets)
    execute(one_stage("prune", model_reference(model, weights), data, (stage,), tier, seed), out)


prune = with_flags(Prune, _prune)
