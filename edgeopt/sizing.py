"""The widest network of a family that there is room for, found before any training.

Each width that is tried is made, quantized on noise and brought to the tier's form: file and memory are those of what
would be shipped, not estimates from a formula. What a file takes does not depend on what its weights are. As the costs
of a width grow with its square, two or three trials come near and the bisection ends soon.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edgeopt.data import Data, Split
from edgeopt.data.arrays import ArraySource
from edgeopt.errors import UsageError
from edgeopt.model import Model
from edgeopt.model.feeds import random_feeds
from edgeopt.model.profile import profile
from edgeopt.model.reference import ModelRef
from edgeopt.progress import Progress
from edgeopt.stage import StageResult
from edgeopt.tiers import Tier
from edgeopt.units import format_bytes

__all__ = ["fit_width", "largest", "noise"]

SAMPLES = 16
WIDEST = 4096
GUESSES = 4
"""Widths that are guessed; then the middle is taken, whatever the costs are like."""
METADATA_BYTES = 1500
"""Class names, preprocessing and provenance, which a model has only when it is trained."""
TRAINED = 0.002
"""What training may still change in a file: how many bytes numbers take."""

Ship = Callable[[Model], StageResult]
"""A float model -> what a tier would ship of it, its limits aside, with the export's facts."""


def fit_width(
    reference: ModelRef, tier: Tier, ship: Ship, *, seed: int, progress: Progress
) -> tuple[ModelRef, dict[str, Any]]:
    """`reference` with the largest `settings.width`, a multiple of the tier's, that fits, and what that costs.

    Raises UsageError when nothing fits, naming the smallest and what it needs, or when there are no limits.
    """
    assert reference.fit is not None
    limits = reference.fit.limits(tier)
    if not limits:
        raise UsageError(
            f"tier {tier.name} has no limits", where=f"{reference.source}: fit", fix="give size, ram or macs"
        )
    trials = _Trials(reference, ship, limits, seed, progress)
    width = largest(trials.share, tier.width_multiple)
    if not width:
        raise UsageError(
            f"the smallest (width {tier.width_multiple}) needs {_amounts(trials.costs[tier.width_multiple], limits)}; "
            f"the limits are {_amounts(limits, limits)}",
            where=f"{reference.source}: fit to {tier.name}",
            fix="take fewer blocks or a smaller input, or another family",
        )
    facts = {"tier": tier.name, "width": width, **trials.costs[width], "limits": limits, "tried": sorted(trials.costs)}
    return _with_width(reference, width), facts


def largest(share: Callable[[int], float], step: int) -> int:
    """The largest multiple of `step` with `share` at most 1, up to WIDEST; 0 where even `step` is over.

    `share` grows with the width, about with its square: that is what the next one to try is guessed by.
    """
    fits, over, width, guesses = 0, WIDEST + step, 4 * step, GUESSES
    while over - fits > step:
        found = share(width)
        fits, over = (width, over) if found <= 1 else (fits, width)
        middle, guesses = math.sqrt(max(fits, step) * over), guesses - 1
        wanted = width / math.sqrt(found) if found > 0 and guesses > 0 else middle
        width = min(max(math.floor(wanted / step) * step, fits + step), over - step)
    return fits


def noise(model: Model) -> Data:
    """Data to calibrate a network with of which only the size counts. Raises UsageError for several inputs."""
    if len(model.inputs) != 1:
        raise UsageError(f"has {len(model.inputs)} inputs", where="fit", fix="`fit` takes networks with one")
    samples = random_feeds(model, SAMPLES)[model.inputs[0].name]
    split = Split(ArraySource(samples), np.arange(SAMPLES), None, None)
    return Data("noise", split, split, split, (), None, "noise")


@dataclass(frozen=True)
class _Trials:
    """Widths that were tried."""

    reference: ModelRef
    ship: Ship
    limits: dict[str, float]
    seed: int
    progress: Progress
    costs: dict[int, dict[str, float]] = field(default_factory=dict)
    """Width -> `size` and `ram` in bytes, `macs`."""

    def share(self, width: int) -> float:
        """Of the scarcest room, what a width takes: above 1 it does not fit."""
        self.progress.start(f"width {width}", 1)
        model = _with_width(self.reference, width).load(self.seed)
        found: dict[str, float] = {"macs": profile(model).macs}
        if found["macs"] <= self.limits.get("macs", math.inf):  # else it need not be made
            made = self.ship(model)
            planned = made.facts.get("c_code")
            found["ram"] = max(planned["arena_bytes"].values()) if planned else profile(made.model).peak_ram_bytes
            found["size"] = math.ceil(made.facts["size_bytes"] * (1 + TRAINED)) + METADATA_BYTES
        self.costs[width] = found
        self.progress.advance(metric=_amounts(found, self.limits))
        return max(found[name] / limit for name, limit in self.limits.items() if name in found)


def _with_width(reference: ModelRef, width: int) -> ModelRef:
    return reference.model_copy(update={"fit": None, "settings": reference.settings | {"width": width}})


def _amounts(costs: dict[str, float], limits: dict[str, float]) -> str:
    """`98 KB, 19,500,000 MACs` of what is limited."""
    written = {
        "size": lambda amount: f"a file of {format_bytes(amount)}",
        "ram": lambda amount: f"{format_bytes(amount)} of RAM",
        "macs": lambda amount: f"{amount:,.0f} MACs",
    }
    return ", ".join(written[name](costs[name]) for name in limits if name in costs)
