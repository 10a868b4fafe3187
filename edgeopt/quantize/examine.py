"""What quantization would do to a model, layer by layer, before any decision: the library side of `sensitivity`."""

from __future__ import annotations

from dataclasses import dataclass

from edgeopt.model.model import Model
from edgeopt.model.runtime import open_session, run
from edgeopt.quantize.build import Builder
from edgeopt.quantize.samples import Samples
from edgeopt.quantize.sensitivity import Sensitivity, Tally, rank
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
    return Examination(layers, len(few), _whole(builder, few))


def _whole(builder: Builder, samples: Samples) -> float:
    exact, integer = open_session(builder.model), open_session(builder.build().model)
    tally = Tally()
    for feeds in samples.batches(1):
        tally.add(run(exact, feeds)[0], run(integer, feeds)[0])
    return tally.decibels
