"""`edgeopt export`."""

from __future__ import annotations

from edgeopt.cli.running import (
    DataOption,
    ModelArgument,
    OutOption,
    SeedOption,
    TierOption,
    WeightsOption,
    execute,
    model_reference,
    one_stage,
)

__all__ = ["export"]


def export(
    model: ModelArgument,
    tier: TierOption = None,
    data: DataOption = None,
    out: OutOption = None,
    weights: WeightsOption = None,
    seed: SeedOption = 0,
) -> None:
    """Write a model as a tier's artifact, checked against the tier's limits. With --data it is measured too."""
    execute(one_stage("export", model_reference(model, weights), data, (), tier, seed), out)
