"""`edgeopt export`."""

from __future__ import annotations

from edgeopt.cli.running import (
    Common,
    DataOption,
    ModelArgument,
    ModelSettingOption,
    OutOption,
    SeedOption,
    TierOption,
    WeightsOption,
    run_stages,
)

__all__ = ["export"]


def export(
    model: ModelArgument,
    tier: TierOption = None,
    data: DataOption = None,
    out: OutOption = None,
    weights: WeightsOption = None,
    seed: SeedOption = 0,
    settings: ModelSettingOption = None,
) -> None:
    """Write a model as a tier's artifact, checked against the tier's limits. With --data it is measured too."""
    run_stages("export", Common(model, data, tier, out, weights, seed, settings=settings), ())
