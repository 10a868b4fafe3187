"""Intervals for accuracies and for the drop between two models on the same images.

Both are score intervals: they invert a test instead of adding and subtracting a standard error, so they
keep their coverage near 100 % accuracy and with few discordant images, where the textbook (Wald) interval
collapses to a point.
"""

from __future__ import annotations

import math

import numpy as np

__all__ = ["Z95", "paired_drop", "tango", "wilson"]

Z95 = 1.959963984540054
"""Two-sided 95 % point of the standard normal distribution."""


def wilson(correct: int, samples: int, z: float = Z95) -> tuple[float, float]:
    """Interval of an accuracy, fractions of 1. Wilson 1927; Newcombe 1998a (Stat. Med. 17:857), method 3.

    No samples tell nothing: (0, 1).
    """
    if samples == 0:
        return 0.0, 1.0
    share, spread = correct / samples, z * z / samples
    middle = (share + spread / 2) / (1 + spread)
    half = z * math.sqrt(share * (1 - share) / samples + spread / (4 * samples)) / (1 + spread)
    low = 0.0 if correct == 0 else max(0.0, middle - half)
    high = 1.0 if correct == samples else min(1.0, middle + half)
    return low, high


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


def tango(first_only: int, second_only: int, pairs: int, z: float = Z95) -> tuple[float, float]:
    """Score interval of the difference of two paired proportions.

    Tango 1998, Stat. Med. 17:891; recommended by Fagerland, Lydersen and Laake 2014, Stat. Med. 33:2850.
    `first_only` and `second_only` count the discordant pairs. The statistic falls as the supposed
    difference rises, so each end is found by bisection.
    """
    estimate = (first_only - second_only) / pairs

    def end(target: float, low: float, high: float) -> float:
        for _ in range(60):
            middle = (low + high) / 2
            if _score(middle, first_only, second_only, pairs) > target:
                low = middle
            else:
                high = middle
        return (low + high) / 2

    low = -1.0 if estimate == -1 else end(z, -1.0, estimate)
    high = 1.0 if estimate == 1 else end(-z, estimate, 1.0)
    return low, high


def _score(delta: float, first_only: int, second_only: int, pairs: int) -> float:
    """Tango's statistic: (b - c - n delta) over its standard deviation when the true difference is
    `delta`.
    """
    b = (2 * pairs - first_only + second_only) * delta - first_only - second_only
    c = -second_only * delta * (1 - delta)
    nuisance = (math.sqrt(max(b * b - 8 * pairs * c, 0.0)) - b) / (4 * pairs)
    variance = pairs * (2 * nuisance + delta * (1 - delta))
    excess = first_only - second_only - pairs * delta
    return excess / math.sqrt(variance) if variance > 0 else math.copysign(math.inf, excess) if excess else 0.0
