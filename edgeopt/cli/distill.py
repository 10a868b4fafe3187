"""`edgeopt distill`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from edgeopt.cli.flags import build, with_flags
from edgeopt.cli.running import (
    DataOption,
    OutOption,
    SeedOption,
    SetOption,
    TierOption,
    WeightsOption,
    execute,
    model_reference,
    one_stage,
)
from edgeopt.distill.stage import Distill

__all__ = ["distill"]


def _distill(
    student: Annotated[
        str, typer.Argument(metavar="STUDENT", help="The network to train, as MODEL elsewhere.")
    ],
    flags: dict[tuple[str, ...], Any],
    teacher: Annotated[str, typer.Option("--teacher", help="The trained model to learn from.")],
    data: DataOption = None,
    tier: TierOption = None,
    out: OutOption = None,
    weights: WeightsOption = None,
    seed: SeedOption = 0,
    sets: SetOption = None,
) -> None:
    """Train a student to answer as its teacher does."""
    stage = build(Distill, {("teacher",): teacher} | flags, sets)
    execute(one_stage("distill", model_reference(student, weights), data, (stage,), tier, seed), out)


distill = with_flags(Distill, _distill, skip=("student",))
