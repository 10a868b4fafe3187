"""Intervals against worked examples in the literature."""

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from edgeopt.measure.statistics import Z95, paired_drop, tango, wilson

# Newcombe 1998, "Two-sided confidence intervals for the single proportion", Table I, method 3.
NEWCOMBE = [
    (81, 263, 0.2553, 0.3662),
    (15, 148, 0.0624, 0.1605),
    (0, 20, 0.0, 0.1611),
    (1, 29, 0.0061, 0.1718),
]

# Fagerland, Lydersen and Laake 2014: airway reactivity (Bentur et al. 2009).
BENTUR = (1, 7, 21, -0.517, -0.026)


@pytest.mark.parametrize(("correct", "samples", "low", "high"), NEWCOMBE)
def test_wilson_gives_the_published_limits(correct, samples, low, high):
    assert wilson(correct, samples) == pytest.approx((low, high), abs=5e-5)


def test_wilson_stays_inside_and_never_collapses():
    assert wilson(50, 50) == (pytest.approx(0.9287, abs=1e-4), 1.0)
    assert wilson(0, 0) == (0.0, 1.0)


def test_tango_gives_the_published_limits():
    first, second, pairs, low, high = BENTUR
    assert tango(first, second, pairs) == pytest.approx((low, high), abs=5e-4)


def test_tango_without_discordant_pairs_is_as_wide_as_the_sample_is_small():
    spread = Z95**2 / (50 + Z95**2)  # the score equation solved by hand for b = c = 0
    assert tango(0, 0, 50) == pytest.approx((-spread, spread))


@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 200))
def test_tango_excludes_zero_exactly_when_mcnemar_finds_a_difference(lost, won, same):
    assume(lost + won > 0)
    statistic = abs(lost - won) / math.sqrt(lost + won)
    assume(abs(statistic - Z95) > 1e-6)
    low, high = tango(lost, won, lost + won + same)
    assert (low > 0 or high < 0) == (statistic > Z95)
    assert -1 <= low <= (lost - won) / (lost + won + same) <= high <= 1


def test_a_drop_is_in_points_and_positive_when_the_candidate_is_worse():
    reference = np.ones(200, bool)
    candidate = reference.copy()
    candidate[:6] = False
    points, low, high = paired_drop(reference, candidate)
    assert points == pytest.approx(3.0)
    assert 0 < low < 3.0 < high < 8
    better, low, high = paired_drop(candidate, reference)
    assert better == pytest.approx(-3.0)
    assert low < -3.0 < high < 0


def test_pairing_beats_two_separate_intervals():
    random = np.random.default_rng(0)
    reference = random.random(1000) < 0.9
    candidate = reference ^ (random.random(1000) < 0.01)
    _, low, high = paired_drop(reference, candidate)
    alone = [wilson(int(answers.sum()), 1000) for answers in (reference, candidate)]
    assert high - low < 0.5 * 100 * sum(top - bottom for bottom, top in alone)


def test_the_interval_covers_the_truth_19_times_of_20():
    random = np.random.default_rng(1)
    both, lost, won = 0.90, 0.04, 0.02
    covered = 0
    for _ in range(1000):
        counts = random.multinomial(360, [both, lost, won, 1 - both - lost - won])
        low, high = tango(counts[1], counts[2], 360)
        covered += low <= lost - won <= high
    assert 930 <= covered <= 972


def test_answers_that_cannot_be_paired_are_refused():
    with pytest.raises(ValueError, match="cannot be paired"):
        paired_drop(np.ones(3, bool), np.ones(4, bool))
