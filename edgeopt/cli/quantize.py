"""`edgeopt quantize`."""

from __future__ import annotations

from typing import Any

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
from edgeopt.quantize.stage import Quantize

__all__ = ["quantize"]


def _quantize(
    model: ModelArgument,
    flags: dict[tuple[str, ...], Any],
    data: DataOption = None,
    tier: TierOption = None,
    out: OutOption = None,
    weights: WeightsOption = None,
    seed: SeedOption = 0,
    sets: SetOption = None,
) -> None:
    """INT8-quantize a model with Q/DQ nodes placed as the tier's runtime wants them, and measure what it costs."""
    stage = build(Quantize, flags, sets)
    execute(one_stage("quantize", model_reference(model, weights), data, (stage,), tier, seed), out)


quantize = with_flags(Quantize, _quantize)
