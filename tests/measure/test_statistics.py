"""The drop between two models on the same images. The intervals behind it: tests/test_intervals.py."""

import numpy as np
import pytest

from edgeopt.measure.statistics import paired_drop, wilson


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


def test_answers_that_cannot_be_paired_are_refused():
    with pytest.raises(ValueError, match="cannot be paired"):
        paired_drop(np.ones(3, bool), np.ones(4, bool))
