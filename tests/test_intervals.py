"""Intervals against worked examples in the literature, and sample sizes against simulated test sets."""

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from edgeopt.intervals import (
    ONE_SIDED_Z95,
    Z95,
    Exact,
    PairedDrop,
    Share,
    Spread,
    UnpairedDrop,
    discordant,
    newcombe,
    samples_needed,
    tango,
    wilson,
)

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


def test_the_interval_covers_the_truth_19_times_of_20():
    random = np.random.default_rng(1)
    both, lost, won = 0.90, 0.04, 0.02
    covered = 0
    for _ in range(1000):
        counts = random.multinomial(360, [both, lost, won, 1 - both - lost - won])
        low, high = tango(counts[1], counts[2], 360)
        covered += low <= lost - won <= high
    assert 930 <= covered <= 972


def test_newcombe_gives_the_published_limits():
    # Newcombe 1998b, Table II, method 10: (a) 56/70 - 48/80, (b) 9/10 - 3/10
    assert newcombe(56, 70, 48, 80) == pytest.approx((0.0524, 0.3339), abs=5e-5)
    assert newcombe(9, 10, 3, 10) == pytest.approx((0.1705, 0.8090), abs=5e-5)


@given(st.integers(20, 2_000), st.integers(0, 30), st.integers(0, 30))
def test_counts_are_found_again_from_the_interval_that_a_report_states(samples, lost, won):
    assume(lost + won <= samples)
    seen = PairedDrop(lost, won, samples)
    assert discordant(seen.estimate, seen.interval(Z95)[1], samples) == seen


def share(draws, holds):
    """Fraction of the draws (rest, lost, won) for which `holds(lost, won)`; equal ones are asked once."""
    counts = Counter((int(b), int(c)) for _, b, c in draws)
    return sum(number for pair, number in counts.items() if holds(*pair)) / len(draws)


@pytest.mark.parametrize("limit", [0.5, 3.0])
def test_a_model_whose_drop_is_the_limit_seldom_seems_to_be_under_it(limit):
    random = np.random.default_rng(0)
    lost, won = 0.01 + limit / 100, 0.01
    draws = random.multinomial(1_000, [1 - lost - won, lost, won], size=4_000)
    passed = share(draws, lambda b, c: PairedDrop(b, c, 1_000).interval(ONE_SIDED_Z95)[1] <= limit)
    assert 0.025 < passed < 0.065


@pytest.mark.parametrize(("lost", "won", "samples", "limit"), [(6, 2, 400, 2.0), (1, 0, 360, 1.0), (30, 25, 500, 3.0)])
def test_with_the_samples_it_asks_for_four_of_five_test_sets_tell(lost, won, samples, limit):
    needed = samples_needed(PairedDrop(lost, won, samples), limit)
    random = np.random.default_rng(1)
    shares = [1 - (lost + won) / samples, lost / samples, won / samples]
    draws = random.multinomial(needed, shares, size=1_000)
    told = share(draws, lambda b, c: PairedDrop(b, c, needed).interval(ONE_SIDED_Z95)[1] <= limit)
    assert 0.74 < told < 0.96


def test_samples_needed_grow_as_the_figure_comes_near_the_limit():
    needed = [samples_needed(Share(9_500, 10_000), limit) for limit in (0.90, 0.94, 0.949, 0.9495)]
    assert needed == sorted(needed)
    assert 150 < needed[0] < 300
    assert needed[-1] > 1_000_000
    assert all(number == float(f"{number:.2g}") for number in needed)


def test_no_number_of_samples_tells_a_figure_from_a_limit_that_is_the_figure():
    assert samples_needed(Share(95, 100), 0.95) is None
    assert samples_needed(PairedDrop(5, 3, 200), 1.0) is None
    assert samples_needed(Spread(1.0, 0.9, 1.1), 1.05) is None


def test_pairing_needs_fewer_samples_than_two_accuracies():
    paired = PairedDrop(12, 8, 1_000)
    unpaired = UnpairedDrop(Share(950, 1_000), Share(946, 1_000))
    assert paired.estimate == pytest.approx(unpaired.estimate)
    assert samples_needed(paired, 2.0) < samples_needed(unpaired, 2.0) / 3


def test_what_is_counted_has_no_interval_and_a_spread_keeps_its_own():
    assert Exact(5.0).interval(Z95) == (5.0, 5.0)
    assert Spread(1.0, 0.9, 1.2).grown(100).interval(Z95) == (0.9, 1.2)
