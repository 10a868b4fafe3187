"""`edgeopt distill`."""

from __future__ import annotations

from typing import Annotated

import typer

from edgeopt.cli.flags import Flags, build, with_flags
from edgeopt.cli.running import Common, run_stages
from edgeopt.distill.stage import Distill

__all__ = ["distill"]


def _distill(
    common: Common,
    flags: Flags,
    teacher: Annotated[
        list[str],
        typer.Option("--teacher", help="The trained model to learn from, as MODEL; repeat for the mean of several."),
    ],
) -> None:
    """Train MODEL, the student, to answer as its teacher does."""
    named = teacher[0] if len(teacher) == 1 else teacher
    run_stages("distill", common, (build(Distill, flags | {("teacher",): named}, common.sets),))


distill = with_flags(Distill, _distill, skip=("student",))
