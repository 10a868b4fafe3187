"""`edgeopt export`."""

from __future__ import annotations

from typing import Annotated

import typer

from edgeopt.cli.running import (
    Common,
    DataOption,
    ModelArgument,
    ModelSettingOption,
    OutOption,
    SeedOption,
    TierOption,
    WeightsOption,
    read_settings,
    run_stages,
)
from edgeopt.errors import StageFailed, UsageError

__all__ = ["export"]


def export(
    model: ModelArgument,
    tier: TierOption = None,
    data: DataOption = None,
    out: OutOption = None,
    weights: WeightsOption = None,
    seed: SeedOption = 0,
    settings: ModelSettingOption = None,
    c: Annotated[bool, typer.Option("--c", help="Refuse to end without C code (tiers such as mcu write it).")] = False,
) -> None:
    """Write a model as a tier's artifact, checked against the tier's limits. With --data it is measured too."""
    if c:
        require_c_code(model, tier or [], weights, settings)
    run_stages("export", Common(model, data, tier, out, weights, seed, settings=settings), ())


def require_c_code(model: str, tiers: list[str], weights: str | None, settings: list[str] | None) -> None:
    """Raise UsageError unless every tier writes C, StageFailed naming what has no kernel."""
    from edgeopt.mcu import objections
    from edgeopt.model.load import load_model
    from edgeopt.tiers import load_tier

    without = [name for name in tiers or ["any"] if not (tiers and load_tier(name).c_code)]
    if without:
        raise UsageError(f"tier {without[0]} has no C code", where="--c", fix="choose --tier mcu")
    found = objections(load_model(model, weights=weights, settings=read_settings(settings)))
    if found:
        raise StageFailed("; ".join(found), where="--c", fix="replace these operators, or leave out --c")
