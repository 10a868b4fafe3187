"""The growing histogram holds what one with the final bins would have held from the start."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgeopt.quantize.histogram import HALF, SMOOTHING, Histogram

# Scaling by a power of two is exact as long as the result is a normal float32.
NORMAL = st.floats(-1e6, 1e6, width=32).filter(lambda x: x == 0 or abs(x) > 1e-9)
BATCHES = st.lists(hnp.arrays(np.float32, st.integers(1, 20), elements=NORMAL), min_size=1, max_size=6)


def count(*batches: np.ndarray) -> Histogram:
    histogram = Histogram()
    for batch in batches:
        histogram.count(batch)
    return histogram


@given(BATCHES)
def test_growing_by_batches_equals_numpy_at_once(batches: list[np.ndarray]) -> None:
    values = np.concatenate(batches)
    histogram = count(*batches)
    expected, _ = np.histogram(values[values != 0].astype(np.float64), histogram.edges)
    np.testing.assert_array_equal(histogram.counts, expected)
    assert histogram.total == values.size
    assert (histogram.low, histogram.high) == (values.min(), values.max())


@given(BATCHES)
def test_merging_parts_equals_counting_all(batches: list[np.ndarray]) -> None:
    merged = Histogram()
    for batch in batches:
        merged.merge(count(batch))
    whole = count(np.concatenate(batches))
    np.testing.assert_array_equal(merged.counts, whole.counts)
    assert (merged.exponent, merged.zeros, merged.low) == (whole.exponent, whole.zeros, whole.low)


@pytest.mark.parametrize("largest", [1.0, 0.99, 1.01, 3e-7, 8e9])
def test_the_largest_value_lies_in_the_outer_half(largest: float) -> None:
    filled = np.flatnonzero(count(np.array([0.001 * largest, largest], np.float32)).counts)
    assert HALF + HALF // 2 <= filled.max() < 2 * HALF


def test_only_zeros_then_values() -> None:
    histogram = count(np.zeros(5, np.float32), np.array([-2.0, 4.0], np.float32))
    assert (histogram.zeros, histogram.counts.sum(), histogram.low, histogram.high) == (5, 2, -2.0, 4.0)


@given(hnp.arrays(np.float32, (6, 5), elements=NORMAL))
def test_shares_are_counts_by_one_over_each_images_mean_square(images: np.ndarray) -> None:
    """To the nearest power of two, so that neither order nor batches leave a trace."""
    histogram = count(images)
    expected = np.zeros(2 * HALF)
    for image in images.astype(np.float64):
        power = np.square(image).mean()
        if power > 0:
            counts, _ = np.histogram(image[image != 0], histogram.edges)
            expected += counts * 2.0 ** -np.rint(np.log2(power))
    np.testing.assert_array_equal(histogram.shares, expected)
    backwards = count(*[image[None] for image in images[::-1]])
    np.testing.assert_array_equal(histogram.shares, backwards.shares)


def test_share_outside() -> None:
    histogram = count(np.linspace(-1, 1, 20001, dtype=np.float32))
    assert histogram.share_outside(-0.5, 0.9) == pytest.approx(0.3, abs=1e-3)
    assert histogram.share_outside(-1, 1) == 0


def test_averages_of_extremes_are_plain_at_first_and_exponential_then() -> None:
    highs = np.random.default_rng(0).random(300)
    histogram = Histogram()
    for part in np.split(highs, [7, 8, 120]):
        histogram.extend_by_images(-part, part)
    plain = round(1 / SMOOTHING)
    expected = highs[:plain].mean()
    for high in highs[plain:]:
        expected = (1 - SMOOTHING) * expected + SMOOTHING * high
    assert histogram.average_high == pytest.approx(expected)
    assert histogram.average_low == pytest.approx(-expected)
    assert (histogram.images, histogram.high) == (300, highs.max())


def test_merged_averages_are_those_of_the_wider_tensor() -> None:
    narrow, wide, merged = Histogram(), Histogram(), Histogram()
    narrow.extend_by_images(np.array([-1.0, -3]), np.array([1.0, 1]))
    wide.extend_by_images(np.array([0.0, 0]), np.array([4.0, 8]))
    for part in (narrow, wide, Histogram()):
        merged.merge(part)
    assert (merged.average_low, merged.average_high, merged.images) == (-2, 6, 2)
