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
    teacher: Annotated[str, typer.Option("--teacher", help="The trained model to learn from, as MODEL.")],
) -> None:
    """Train MODEL, the student, to answer as its teacher does."""
    run_stages("distill", common, (build(Distill, flags | {("teacher",): teacher}, common.sets),))


distill = with_flags(Distill, _distill, skip=("student",))
