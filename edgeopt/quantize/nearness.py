"""How near a quantized model's answers are to the float model's: what decides whether a change is kept.

Two figures: the SQNR of all samples together, in which the loudest samples count most (a few of them can hold nine
tenths of all power), and the mean over the samples of each one's own, in which all count alike. Their mean decides: a
change that gains in one by giving up as much in the other is no gain. Where samples are alike, both say the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from edgeopt.model.layerwise.pile import Pile
from edgeopt.model.model import Model
from edgeopt.quantize.samples import Samples
from edgeopt.quantize.sensitivity import Tally
from edgeopt.tiers import Tier

__all__ = ["Nearness", "nearness"]


@dataclass(frozen=True)
class Nearness:
    """SQNR of a model's first output, dB."""

    together_db: float
    """Of all samples together."""
    apart_db: float
    """The mean over the samples."""

    @property
    def decibels(self) -> float:
        """The mean of both."""
        return (self.together_db + self.apart_db) / 2


def nearness(model: Model, *candidates: Model, samples: Samples, tier: Tier) -> list[Nearness]:
    """How near the first output of each of `candidates` is to that of the float `model`.

    The candidates run as on `tier`, one after the other: no two networks are in memory, and of the float answers what
    is much goes to a temporary file. Raises StageFailed when one cannot be run.
    """
    truth = Pile()
    for answer in _answers(model, {}, samples):
        truth.append(answer)
    return [_compare(truth, _answers(candidate, tier.session, samples)) for candidate in candidates]


def _answers(model: Model, session: Mapping[str, str], samples: Samples) -> Iterator[np.ndarray]:
    from edgeopt.model.runtime import open_session, run

    opened = open_session(model, entries=session)
    for feeds in samples.batches(model.fixed_batch or 1):
        yield run(opened, feeds)[0]


def _compare(truth: Pile, answers: Iterator[np.ndarray]) -> Nearness:
    together, apart = Tally(), []
    for index, found in enumerate(answers):
        one = Tally()
        for tally in (together, one):
            tally.add(truth[index], found)
        apart.append(one.decibels)
    return Nearness(together.decibels, float(np.mean(apart)))
