"""A histogram that grows: what the calibrators read, filled in one pass over any number of batches.

Bins are 2^exponent wide and aligned to zero. A value that does not fit doubles the width, and each pair of bins
becomes one: floor(floor(x/w)/2) = floor(x/2w), so the counts are those of a histogram that had the final width from
the start. The order and size of batches leave no trace, and no second pass is needed to find the range.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

__all__ = ["HALF", "SMOOTHING", "Histogram"]

HALF = 4096
"""Bins on each side of zero; the largest magnitude seen lies in the outer half of them."""
SMOOTHING = 0.01
"""Weight of the newest image in the moving average of extremes, once there are 1/SMOOTHING of them."""


@dataclass
class Histogram:
    """Smallest and largest value seen, their moving averages over images, and (unless only extremes were asked for)
    the counts between them.

    `counts` int64 [2*HALF]: bin i holds values in [(i - HALF) * width, (i - HALF + 1) * width); exact zeros are in
    `zeros` instead, because quantization keeps them exactly. `shares` float64 [2*HALF]: the same, a value of each image
    counting as one over the image's mean square, so that loud and quiet images weigh alike.
    """

    low: float = np.inf
    high: float = -np.inf
    zeros: int = 0
    exponent: int | None = None
    counts: np.ndarray = field(default_factory=lambda: np.zeros(2 * HALF, np.int64))
    shares: np.ndarray = field(default_factory=lambda: np.zeros(2 * HALF))
    images: int = 0
    """How many images made the averages."""
    average_low: float = 0.0
    average_high: float = 0.0

    @property
    def width(self) -> float:
        """Width of a bin; 1 while nothing but zeros was seen."""
        return 2.0 ** (self.exponent or 0)

    @property
    def total(self) -> int:
        """How many values were counted, zeros included."""
        return int(self.counts.sum()) + self.zeros

    @property
    def edges(self) -> np.ndarray:
        """float64 [2*HALF + 1]: borders of the bins."""
        return np.arange(-HALF, HALF + 1) * self.width

    def extend(self, low: float, high: float) -> None:
        """Take note of a smallest and a largest value without counting."""
        self.low, self.high = min(self.low, float(low)), max(self.high, float(high))

    def extend_by_images(self, lows: np.ndarray, highs: np.ndarray) -> None:
        """Take note of the extremes of some images, float [n] each, in order.

        The averages over images are plain until there are 1/SMOOTHING of them and exponential from then on, so that
        the first image weighs no more than others; batches leave no trace in them.
        """
        self.extend(lows.min(), highs.max())
        for low, high in zip(lows.tolist(), highs.tolist(), strict=True):
            self.images += 1
            weight = max(1 / self.images, SMOOTHING)
            self.average_low += weight * (low - self.average_low)
            self.average_high += weight * (high - self.average_high)

    def count(self, values: np.ndarray) -> None:
        """Count finite `values` [images, ...]; a vector is of one image."""
        if values.size == 0:
            return
        values = values.reshape(len(values) if values.ndim > 1 else 1, -1)
        low, high = float(values.min()), float(values.max())
        self.extend(low, high)
        largest = max(-low, high)
        if largest == 0:
            self.zeros += values.size
            return
        self._fit(_exponent(largest))
        scaled = values * np.float64(1 / self.width) if self._is_extreme() else values * np.float32(1 / self.width)
        weights = self._weights(scaled)
        np.floor(scaled, out=scaled)
        scaled += HALF
        bins = scaled.astype(np.intp).ravel()
        zeros = np.array([np.count_nonzero(row == 0) for row in values])
        self.counts += np.bincount(bins, minlength=2 * HALF)
        self.counts[HALF] -= zeros.sum()
        self.shares += np.bincount(bins, np.repeat(weights, values.shape[1]), minlength=2 * HALF)
        self.shares[HALF] -= zeros @ weights
        self.zeros += int(zeros.sum())

    def merge(self, other: Histogram) -> None:
        """Add what `other` saw; `other` stays as it is. The averages become the wider of both: where two tensors of
        one image share a range, its extremes are those of the wider one."""
        self.extend(other.low, other.high)
        if other.images:
            low, high = (self.average_low, self.average_high) if self.images else (np.inf, -np.inf)
            self.average_low, self.average_high = min(low, other.average_low), max(high, other.average_high)
            self.images = max(self.images, other.images)
        self.zeros += other.zeros
        if other.exponent is None:
            return
        self._fit(other.exponent)
        assert self.exponent is not None
        self.counts += _halved(other.counts, self.exponent - other.exponent)
        self.shares += _halved(other.shares, self.exponent - other.exponent)

    def share_outside(self, low: float, high: float) -> float:
        """Share of the counted values in bins wholly outside [low, high]; 0.0 when nothing was counted."""
        outside = int(self.counts[(self.edges[1:] < low) | (self.edges[:-1] > high)].sum())
        return outside / self.total if self.total else 0.0

    def _fit(self, exponent: int) -> None:
        """Make bins at least 2^exponent wide."""
        if self.exponent is None:
            self.exponent = exponent
        elif exponent > self.exponent:
            self.counts = _halved(self.counts, exponent - self.exponent)
            self.shares = _halved(self.shares, exponent - self.exponent)
            self.exponent = exponent

    def _weights(self, scaled: np.ndarray) -> np.ndarray:
        """One over each row's mean square, float64 [rows], to the nearest power of two: sums of such numbers are exact,
        so that no order of the images leaves a trace. 0 for a row of zeros. `scaled` is in widths of a bin."""
        power = np.einsum("ij,ij->i", scaled, scaled).astype(np.float64) / scaled.shape[1]
        nearest = np.rint(np.log2(power, out=np.zeros_like(power), where=power > 0)) + 2 * (self.exponent or 0)
        return np.where(power > 0, np.exp2(-nearest), 0.0)

    def _is_extreme(self) -> bool:
        """1/width does not fit a normal float32."""
        return not -120 < (self.exponent or 0) < 120


def _exponent(largest: float) -> int:
    """The smallest e such that values up to `largest` in magnitude fit HALF bins of 2^e on each side."""
    exponent = np.frexp(largest)[1]  # largest = fraction * 2^exponent, 0.5 <= fraction < 1
    return int(exponent) - int(np.log2(HALF))


def _halved(counts: np.ndarray, times: int) -> np.ndarray:
    """Counts after the bin width was doubled `times` times."""
    for _ in range(min(times, int(np.log2(2 * HALF)))):  # by then one bin is left on each side of zero
        pairs = counts.reshape(HALF, 2).sum(axis=1)
        counts = np.zeros_like(counts)
        counts[HALF // 2 : HALF // 2 + HALF] = pairs
    return counts
