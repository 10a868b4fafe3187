"""`edgeopt prune`."""

from __future__ import annotations

from typing import Annotated

import typer

from edgeopt.cli.flags import Flags, build, with_flags
from edgeopt.cli.running import Common, run_stages
from edgeopt.prune.stage import Prune

__all__ = ["prune"]


def _prune(
    common: Common,
    flags: Flags,
    epochs: Annotated[
        int | None, typer.Option("--epochs", min=0, help="Of fine-tuning; 0: none, and then no --data is needed.")
    ] = None,
) -> None:
    """Remove channels from a model, prove that exactly those are gone, and fine-tune the rest."""
    if epochs is not None:
        flags |= {("finetune", "epochs"): epochs} if epochs else {("finetune",): None}
    run_stages("prune", common, (build(Prune, flags, common.sets),))


prune = with_flags(Prune, _prune)
