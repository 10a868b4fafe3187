"""Calibrators: which range of an activation is worth its 256 levels.

A narrow range clips large values, a wide one rounds all of them coarsely. Each calibrator is a Spec with one verb,
`choose_range`, a pure function of what was seen. A new one is a class here and its name in `Calibrator`.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from edgeopt.quantize.histogram import HALF, Histogram
from edgeopt.quantize.ranges import Range
from edgeopt.spec import Spec

__all__ = ["Calibrator", "Entropy", "MinMax", "MovingAverage", "Mse", "MseByImage", "Percentile"]

SHARES = np.geomspace(1 / 256, 1, 160)
"""Candidate ends of a range, as shares of the largest value seen: 3.5 % apart."""
NARROWEST = 128
"""Bins of the narrowest range that entropy considers, as in TensorRT: below, every bin would be a level of its own."""
ALMOST_NONE = 1e-4
"""Count that stands for none where a divergence would be infinite."""


class MinMax(Spec):
    """From the smallest to the largest value seen: nothing is clipped, one outlier coarsens everything.

    Source: Jacob et al. 2018, Quantization and Training of Neural Networks, arXiv:1712.05877.
    """

    needs_counts: ClassVar[bool] = False
    kind: Literal["minmax"] = "minmax"

    def choose_range(self, seen: Histogram, *, symmetric: bool) -> Range:
        """Range of what was seen."""
        return Range(seen.low, seen.high)


class MovingAverage(Spec):
    """From the smallest to the largest value of an image, averaged over the images: one odd image moves it little.

    The average is exponential (see `Histogram.extend_by_images`) and over images rather than batches, so that the size
    of a batch makes no difference. Source: Jacob et al. 2018, arXiv:1712.05877, section 3.1.
    """

    needs_counts: ClassVar[bool] = False
    kind: Literal["moving_average"] = "moving_average"

    def choose_range(self, seen: Histogram, *, symmetric: bool) -> Range:
        """The averages; the range of what was seen where it did not come by images."""
        return Range(seen.average_low, seen.average_high) if seen.images else Range(seen.low, seen.high)


class Percentile(Spec):
    """Clips the rarest values on each side, so that a few outliers do not set the step.

    Source: Wu et al. 2020, Integer Quantization for Deep Learning Inference, arXiv:2004.09602, section 3.4.
    """

    needs_counts: ClassVar[bool] = True
    kind: Literal["percentile"] = "percentile"
    percentile: float = Field(
        99.99, gt=50, le=100, description="percent of the values that lie inside, on each side (of |x| if symmetric)"
    )

    def choose_range(self, seen: Histogram, *, symmetric: bool) -> Range:
        """The percentile and its mirror, to one bin, never beyond what was seen."""
        edges = seen.edges
        if symmetric:
            counts = seen.counts[HALF:] + seen.counts[:HALF][::-1]
            high = _quantile(counts, seen.zeros, edges[HALF:], self.percentile)
            return _within(Range(-high, high), seen)
        high = _quantile(seen.counts, seen.zeros, edges, self.percentile)
        low = -_quantile(seen.counts[::-1], seen.zeros, -edges[::-1], self.percentile)
        return _within(Range(low, high), seen)


class Mse(Spec):
    """The range with the least expected squared error: clipping error outside plus rounding error inside.

    Rounding error is step^2/12 for each value inside, zeros excepted (they are exact); clipping error is summed over
    the histogram. Sources: Choukroun et al. 2019, Low-bit Quantization for Efficient Inference, arXiv:1902.06822;
    Banner et al. 2019, Post training 4-bit quantization (ACIQ), arXiv:1810.05723, for the error model.
    """

    needs_counts: ClassVar[bool] = True
    kind: Literal["mse"] = "mse"
    clipping: float = Field(
        1.0, ge=1, description="weight of the clipping error: other images reach further than those seen here"
    )

    def choose_range(self, seen: Histogram, *, symmetric: bool) -> Range:
        """The best pair of lower and upper ends out of SHARES of what was seen; the minmax range is one of them."""
        return _least_error(seen, seen.counts, self.clipping, symmetric)


class MseByImage(Spec):
    """As `mse`, each image's error relative to its own power: the ranges suit most images, not the loudest few.

    In a network without normalization at run time a few images can be a hundred times as loud as the others, layer
    after layer. Squared errors in absolute terms are theirs alone, and ranges that hold them leave the others some
    bits. Relative to the power of an image, clipping costs it at most all it is, and so do steps that are too coarse.
    The error model is that of `mse`; the criterion is the mean over the images of the noise to signal ratio.
    """

    needs_counts: ClassVar[bool] = True
    kind: Literal["mse_by_image"] = "mse_by_image"
    clipping: float = Field(
        1.0, ge=1, description="weight of the clipping error: other images reach further than those seen here"
    )

    def choose_range(self, seen: Histogram, *, symmetric: bool) -> Range:
        """The best of the same pairs of ends."""
        return _least_error(seen, seen.shares if seen.shares.any() else seen.counts, self.clipping, symmetric)


class Entropy(Spec):
    """The range in which 8 bits tell the least less than the values themselves: least Kullback-Leibler divergence.

    For each candidate end (on both sides of zero, as far as there are values) the histogram, with what is clipped in
    its outermost bins, is compared with the same as the levels of the range would show it: the counts of a level,
    without the clipped ones, spread evenly over its bins that are not empty.
    Sources: Migacz 2017, 8-bit Inference with TensorRT, GTC 2017; onnxruntime `get_entropy_threshold`.
    Unlike naive ports it leaves out exact zeros (any grid holds them; after ReLU they would be most of the
    distribution), it counts the levels that the range really has (255 steps over values of one sign, not 128), and
    what is clipped stays missing from the levels' side: scaled up to a whole, a range that clips everything into its
    last bin would be perfect.
    """

    needs_counts: ClassVar[bool] = True
    kind: Literal["entropy"] = "entropy"

    def choose_range(self, seen: Histogram, *, symmetric: bool) -> Range:
        """The best of some 130 ends, 2.7 % apart, never beyond what was seen."""
        below = int(np.ceil(max(-seen.low, 0.0) / seen.width))
        above = int(max(seen.high, 0.0) / seen.width) + 1
        if not seen.counts.any() or max(below, above) <= NARROWEST:
            return Range(seen.low, seen.high)
        ends = np.unique(np.geomspace(NARROWEST, max(below, above), 128).round().astype(int))
        found = []
        for end in ends.tolist():
            low, high = min(below, end), min(above, end, HALF)
            step = end / 127 if symmetric else (low + high) / 255
            found.append(_divergence(seen.counts, HALF - low, HALF + high, step))
        best = float(ends[int(np.argmin(found))] * seen.width)
        return _within(Range(-best, best), seen)


def _least_error(seen: Histogram, counts: np.ndarray, clipping: float, symmetric: bool) -> Range:
    """The range of least clipping (times `clipping`) and rounding error of values that lie as `counts` [bins] say."""
    if symmetric:
        ends = SHARES * max(-seen.low, seen.high, 0.0)
        above, inside_above = _beyond(counts, seen.edges, ends)
        below, inside_below = _beyond(counts[::-1], -seen.edges[::-1], ends)
        inside = inside_above + inside_below - counts.sum()
        best = float(ends[np.argmin(clipping * (above + below) + inside * (ends / 127) ** 2 / 12)])
        return _within(Range(-best, best), seen)
    lows, highs = SHARES * min(seen.low, 0.0), SHARES * max(seen.high, 0.0)
    above, inside_above = _beyond(counts, seen.edges, highs)
    below, inside_below = _beyond(counts[::-1], -seen.edges[::-1], -lows)
    inside = inside_below[:, None] + inside_above - counts.sum()
    step = (highs - lows[:, None]) / 255
    error = clipping * (below[:, None] + above) + inside * step**2 / 12
    i, j = np.unravel_index(int(np.argmin(error)), error.shape)
    return _within(Range(float(lows[i]), float(highs[j])), seen)


def _divergence(counts: np.ndarray, first: int, last: int, step: float) -> float:
    """KL divergence, nats, from the histogram clipped to bins first..last-1 to what levels `step` bins apart tell."""
    inside = counts[first:last].astype(np.float64)
    clipped = inside.copy()
    clipped[0] += counts[:first].sum()
    clipped[-1] += counts[last:].sum()
    filled = clipped > 0
    level = np.rint((np.arange(first, last) + 0.5 - HALF) / step).astype(int)
    level -= level[0]
    spread = np.bincount(level, inside) / np.maximum(np.bincount(level, filled), 1)
    p, q = clipped[filled], np.maximum(spread[level[filled]], ALMOST_NONE)
    return float(np.sum(p * np.log(p / q)) / p.sum())


def _quantile(counts: np.ndarray, zeros: int, edges: np.ndarray, percentile: float) -> float:
    """Upper border of the bin that holds the percentile; `zeros` values lie at 0 besides the counted ones."""
    counts = counts.copy()
    counts[np.searchsorted(edges, 0.0)] += zeros
    reached = np.cumsum(counts) >= counts.sum() * percentile / 100
    return float(edges[1:][int(np.argmax(reached))])


def _beyond(counts: np.ndarray, edges: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each of `ends`: summed squared distance to it of the values above it, and how many are not above it."""
    centres = (edges[:-1] + edges[1:]) / 2
    weights = np.stack([counts, counts * centres, counts * centres**2]).astype(np.float64)
    suffix = np.concatenate([np.cumsum(weights[:, ::-1], axis=1)[:, ::-1], np.zeros((3, 1))], axis=1)
    count, total, squares = suffix[:, np.searchsorted(centres, ends, side="right")]
    return np.maximum(squares - 2 * ends * total + ends**2 * count, 0), counts.sum() - count


def _within(chosen: Range, seen: Histogram) -> Range:
    """The chosen range without what was never seen."""
    return Range(max(chosen.low, seen.low), min(chosen.high, seen.high))


Calibrator = Annotated[MinMax | MovingAverage | Percentile | Mse | MseByImage | Entropy, Field(discriminator="kind")]
