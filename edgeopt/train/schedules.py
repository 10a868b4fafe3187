"""Learning-rate schedules: pure functions of how far the run is, so that a resumed run needs no state.

`factor(done)` multiplies the peak learning rate; `done` runs from 0 (first step) to 1 (after the last).
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field

from edgeopt.spec import Spec

__all__ = ["Cosine", "OneCycle", "Schedule"]


class OneCycle(Spec):
    """Linear up to the peak, linear down to almost nothing (Smith and Topin, arXiv 1708.07120).

    The triangle of Page's "How to train your ResNet" and of airbench: the best choice for short runs.
    """

    kind: Literal["one_cycle"] = "one_cycle"
    warmup: float = Field(0.2, ge=0, lt=1, description="fraction of the run that climbs to the peak")
    start: float = Field(0.1, ge=0, le=1, description="first learning rate, as a fraction of the peak")
    final: float = Field(0.01, ge=0, le=1, description="last learning rate, as a fraction of the peak")

    def factor(self, done: float) -> float:
        """Fraction of the peak learning rate at `done` in 0..1 of the run."""
        if done < self.warmup:
            return self.start + (1 - self.start) * done / self.warmup
        return 1 + (self.final - 1) * (done - self.warmup) / (1 - self.warmup)


class Cosine(Spec):
    """Linear warm-up, then half a cosine (Loshchilov and Hutter, arXiv 1608.03983, without restarts)."""

    kind: Literal["cosine"] = "cosine"
    warmup: float = Field(0.05, ge=0, lt=1, description="fraction of the run that climbs to the peak")
    start: float = Field(0.01, ge=0, le=1, description="first learning rate, as a fraction of the peak")
    final: float = Field(0.0, ge=0, le=1, description="last learning rate, as a fraction of the peak")

    def factor(self, done: float) -> float:
        """Fraction of the peak learning rate at `done` in 0..1 of the run."""
        if done < self.warmup:
            return self.start + (1 - self.start) * done / self.warmup
        fall = (done - self.warmup) / (1 - self.warmup)
        return self.final + (1 - self.final) * (1 + math.cos(math.pi * fall)) / 2


Schedule = Annotated[OneCycle | Cosine, Field(discriminator="kind")]
