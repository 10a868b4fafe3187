"""The drop between two models on the same images, from their answers. The intervals are in `edgeopt.intervals`."""

from __future__ import annotations

import numpy as np

from edgeopt.intervals import tango, wilson

__all__ = ["paired_drop", "wilson"]


def paired_drop(reference: np.ndarray, candidate: np.ndarray) -> tuple[float, float, float]:
    """How far `candidate` is below `reference`: (drop, low, high) in percentage points, 95 %; negative is
    better.

    Both are bool [n], right or wrong on the same n images in the same order. Only the images on which they
    differ carry information; the interval excludes 0 when McNemar's test finds a difference. Raises
    ValueError when the lengths differ or are 0.
    """
    if reference.shape != candidate.shape or reference.size == 0:
        raise ValueError(f"answers on {reference.size} and {candidate.size} images cannot be paired")
    lost = int(np.sum(reference & ~candidate))
    won = int(np.sum(~reference & candidate))
    low, high = tango(lost, won, reference.size)
    return 100 * (lost - won) / reference.size, 100 * low, 100 * high
