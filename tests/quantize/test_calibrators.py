"""Each calibrator against the plain one, on a case where it matters."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
from pydantic import TypeAdapter

from edgeopt.quantize.calibrators import (
    NARROWEST,
    Calibrator,
    Entropy,
    MinMax,
    MovingAverage,
    Mse,
    MseByImage,
    Percentile,
)
from edgeopt.quantize.histogram import HALF, Histogram
from edgeopt.quantize.ranges import Grid, Range, make_grid

FAMILY = [member() for member in get_args(get_args(Calibrator)[0])]
RANDOM = np.random.default_rng(0)
BELL = RANDOM.standard_normal(200_000).astype(np.float32)
OUTLIER = np.append(BELL, np.float32(60))
ONE_SIDED = np.maximum(OUTLIER, 0)


def count(values: np.ndarray) -> Histogram:
    histogram = Histogram()
    histogram.count(values)
    return histogram


def grid(calibrator: Calibrator, values: np.ndarray, symmetric: bool = False) -> Grid:
    chosen = calibrator.choose_range(count(values), symmetric=symmetric)
    return make_grid(chosen, symmetric=symmetric, dtype="int8")


def error(calibrator: Calibrator, values: np.ndarray, symmetric: bool = False) -> float:
    found = grid(calibrator, values, symmetric)
    return float(np.square(found.dequantize(found.quantize(values)) - values, dtype=np.float64).mean())


def bulk_error(calibrator: Calibrator, values: np.ndarray, symmetric: bool) -> float:
    """Median squared error: what the outlier costs everybody else."""
    found = grid(calibrator, values, symmetric)
    rounded = np.square(found.dequantize(found.quantize(values)) - values)
    return float(np.median(rounded[values != 0]))


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("values", [OUTLIER, ONE_SIDED], ids=["outlier", "one-sided outlier"])
class TestWithAnOutlier:
    def test_percentile_keeps_the_bulk_finer_than_minmax(self, values: np.ndarray, symmetric: bool) -> None:
        found = [bulk_error(calibrator, values, symmetric) for calibrator in (Percentile(), MinMax())]
        assert found[0] < 0.02 * found[1]

    def test_mse_has_the_least_squared_error(self, values: np.ndarray, symmetric: bool) -> None:
        found = error(Mse(), values, symmetric)
        assert found < 0.9 * error(MinMax(), values, symmetric)
        assert found < error(Percentile(), values, symmetric)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("values", [OUTLIER, ONE_SIDED], ids=["outlier", "one-sided outlier"])
def test_entropy_keeps_the_bulk_finer_than_minmax(values: np.ndarray, symmetric: bool) -> None:
    assert bulk_error(Entropy(), values, symmetric) < 0.04 * bulk_error(MinMax(), values, symmetric)


def divergence(values: np.ndarray, end: float, width: float, symmetric: bool) -> float:
    """Migacz's definition value by value: clipped values in the outermost bins, levels without them, spread evenly."""
    values = values[values != 0]
    low, high = (
        max(-end, -width * np.ceil(-min(values.min(), 0) / width)),
        min(end, width * (values.max() // width + 1)),
    )
    step = end / 127 if symmetric else (high - low) / 255
    reference: dict[int, int] = {}
    levels: dict[int, int] = {}
    for value in values.astype(np.float64):
        inside = low <= value < high
        bin_ = int(np.floor(value / width)) if inside else round((low if value < low else high - width) / width)
        reference[bin_] = reference.get(bin_, 0) + 1
        if inside:
            level = int(np.rint((bin_ + 0.5) * width / step))
            levels[level] = levels.get(level, 0) + 1
    shares: dict[int, int] = {}
    for bin_ in reference:
        level = int(np.rint((bin_ + 0.5) * width / step))
        shares[level] = shares.get(level, 0) + 1
    found = 0.0
    for bin_, count_ in reference.items():
        level = int(np.rint((bin_ + 0.5) * width / step))
        told = max(levels.get(level, 0) / shares[level], 1e-4)
        found += count_ / values.size * np.log(count_ / told)
    return found


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("one_sided", [False, True])
def test_entropy_takes_the_end_of_least_divergence(one_sided: bool, symmetric: bool) -> None:
    values = np.append(BELL[:2000], np.float32(9))
    values = np.maximum(values, 0) if one_sided else values
    seen = count(values)
    chosen = Entropy().choose_range(seen, symmetric=symmetric)
    top = max(int(seen.high / seen.width) + 1, int(np.ceil(-min(seen.low, 0) / seen.width)))
    ends = np.unique(np.geomspace(NARROWEST, top, 128).round().astype(int))
    best = min(ends, key=lambda end: divergence(values, end * seen.width, seen.width, symmetric))
    assert chosen.high == min(best * seen.width, seen.high)
    assert chosen.low == max(-best * seen.width, seen.low)
    assert top <= HALF


def test_entropy_gives_the_zeros_of_a_relu_no_weight() -> None:
    positive = BELL[BELL > 0]
    few, many = (np.append(positive, np.zeros(n, np.float32)) for n in (10, 1_000_000))
    found = [Entropy().choose_range(count(values), symmetric=False) for values in (few, many)]
    assert found[0] == found[1]


def test_entropy_does_not_clip_a_far_mode_away() -> None:
    # Scaled up to a whole, the part below 1 would be a perfect match of everything clipped into its last bin.
    values = np.append(np.full(4_000, 0.5, np.float32), np.full(6_000, 3.0, np.float32))
    assert Entropy().choose_range(count(values), symmetric=False).high == 3


def test_a_moving_average_is_moved_little_by_one_odd_image() -> None:
    images = BELL[:100_000].reshape(100, 1000).copy()
    images[40, 0] = 60
    seen = Histogram()
    seen.extend_by_images(images.min(axis=1), images.max(axis=1))
    chosen, widest = (c.choose_range(seen, symmetric=False) for c in (MovingAverage(), MinMax()))
    assert widest.high == 60
    usual = np.delete(images, 40, axis=0).max(axis=1).mean()
    assert usual < chosen.high < usual + 0.02 * 60
    assert chosen.low == pytest.approx(images.min(axis=1).mean())


def test_mse_is_near_the_best_of_a_thousand_ranges() -> None:
    values = np.append(BELL[:20_000], np.float32(12))

    def clipped_error(high: float) -> float:
        found = make_grid(Range(float(values.min()), high), symmetric=False, dtype="int8")
        return float(np.square(found.dequantize(found.quantize(values)) - values, dtype=np.float64).mean())

    best = min(clipped_error(high) for high in np.linspace(2, 12, 1000))
    assert error(Mse(), values) < 1.03 * best


@pytest.mark.parametrize("symmetric", [False, True])
def test_by_image_one_loud_image_in_a_hundred_does_not_coarsen_the_others(symmetric: bool) -> None:
    """The mean over the images of each one's noise to signal ratio, against `mse`, which sees the loud one alone."""
    images = BELL[:100_000].reshape(100, 1000).copy()
    images[40] *= 300

    def ratio(calibrator: Calibrator) -> float:
        found = make_grid(
            calibrator.choose_range(count(images), symmetric=symmetric), symmetric=symmetric, dtype="int8"
        )
        noise = np.square(found.dequantize(found.quantize(images)) - images).sum(axis=1)
        return float((noise / np.square(images).sum(axis=1)).mean())

    best = min(ratio(Percentile(percentile=percentile)) for percentile in (97, 98, 98.5, 99, 99.5))
    assert ratio(MseByImage()) < 1.1 * best
    assert ratio(MseByImage()) < 0.05 * ratio(Mse())


def test_by_image_is_mse_where_images_are_alike() -> None:
    images = OUTLIER[:200_000].reshape(100, -1)
    found = [calibrator.choose_range(count(images), symmetric=False) for calibrator in (Mse(), MseByImage())]
    assert found[0] == found[1]


def test_percentile_agrees_with_numpy() -> None:
    chosen = Percentile(percentile=99).choose_range(count(OUTLIER), symmetric=False)
    low, high = np.percentile(OUTLIER, [1, 99])
    bin_width = 2 * 64 / 4096
    assert (chosen.low, chosen.high) == (pytest.approx(low, abs=bin_width), pytest.approx(high, abs=bin_width))


def test_percentile_counts_the_zeros_of_a_relu() -> None:
    values = np.append(np.zeros(9_900, np.float32), np.linspace(1, 100, 100, dtype=np.float32))
    chosen = Percentile(percentile=99.5).choose_range(count(values), symmetric=False)
    assert (chosen.low, chosen.high) == (0, pytest.approx(50, abs=1.1))


def test_percentile_100_is_minmax() -> None:
    assert Percentile(percentile=100).choose_range(count(OUTLIER), symmetric=False) == MinMax().choose_range(
        count(OUTLIER), symmetric=False
    )


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("calibrator", FAMILY, ids=lambda c: c.kind)
class TestEveryCalibrator:
    def test_never_goes_beyond_what_was_seen(self, calibrator: Calibrator, symmetric: bool) -> None:
        chosen = calibrator.choose_range(count(OUTLIER), symmetric=symmetric)
        assert OUTLIER.min() <= chosen.low < 0 < chosen.high <= OUTLIER.max()

    @pytest.mark.parametrize("constant", [0.0, 1.5, -3.0])
    def test_a_constant_tensor_survives(self, calibrator: Calibrator, symmetric: bool, constant: float) -> None:
        values = np.full(100, constant, np.float32)
        found = grid(calibrator, values, symmetric)
        assert found.scale > 0
        assert found.dequantize(found.quantize(values)) == pytest.approx(values, rel=0.01)

    def test_one_sided_values_keep_all_levels(self, calibrator: Calibrator, symmetric: bool) -> None:
        if not symmetric:
            assert grid(calibrator, ONE_SIDED).zero_point == -128

    def test_is_what_its_settings_say(self, calibrator: Calibrator, symmetric: bool) -> None:
        assert TypeAdapter(Calibrator).validate_python(calibrator.model_dump()) == calibrator
