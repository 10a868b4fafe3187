"""What quantization would do to a model, layer by layer, before any decision: the library side of `sensitivity`."""

from __future__ import annotations

from dataclasses import dataclass

from edgeopt.model.model import Model
from edgeopt.quantize.nearness import nearness
from edgeopt.quantize.sensitivity import Sensitivity, rank
from edgeopt.quantize.stage import Quantize
from edgeopt.stage import Context
from edgeopt.tiers import load_tier

__all__ = ["Examination", "examine"]


@dataclass(frozen=True)
class Examination:
    """Every integer layer, worst first, and the model as a whole."""

    layers: list[Sensitivity]
    samples: int
    """Used for the figures."""
    int8_db: float
    """SQNR of the first output with every layer in integers."""


def examine(model: Model, settings: Quantize, context: Context, *, count: int) -> Examination:
    """Rank the layers that `settings` would quantize for `context.tier`, on `count` calibration samples.

    Raises what `Quantize.apply` raises.
    """
    builder, samples, _ = settings.learn(model, context.tier or load_tier("any"), context)
    layers = rank(builder, samples, context, count=count)
    few = samples.take(count)
    found = nearness(builder.model, builder.build().model, samples=few, tier=builder.tier)[0]
    return Examination(layers, len(few), found.together_db)
