"""How near a quantized model's answers are to the float model's: what decides whether a change is kept."""

from __future__ import annotations

from edgeopt.model.model import Model
from edgeopt.quantize.samples import Samples
from edgeopt.quantize.sensitivity import Tally
from edgeopt.tiers import Tier

__all__ = ["output_sqnr_db"]


def output_sqnr_db(model: Model, *candidates: Model, samples: Samples, tier: Tier) -> list[float]:
    """SQNR of the first output of each of `candidates` against the float `model`, dB, all samples together.

    The candidates run as on `tier`. Raises StageFailed when one cannot be run.
    """
    from edgeopt.model.runtime import open_session, run

    exact = open_session(model)
    sessions = [open_session(candidate, entries=tier.session) for candidate in candidates]
    tallies = [Tally() for _ in candidates]
    fixed = model.inputs[0].shape[:1]
    for feeds in samples.batches(fixed[0] if fixed and isinstance(fixed[0], int) else 1):
        truth = run(exact, feeds)[0]
        for tally, session in zip(tallies, sessions, strict=True):
            tally.add(truth, run(session, feeds)[0])
    return [tally.decibels for tally in tallies]
