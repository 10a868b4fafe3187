"""Splitting never loses, doubles or leaks a sample, whatever the sizes and the seed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeopt.data.split import balanced_order, split_by_class, without_copies

labels_of_any_kind = st.lists(st.integers(0, 6), min_size=1, max_size=80).map(lambda y: np.array(y, np.int64))
seeds = st.integers(0, 2**32 - 1)


@given(labels_of_any_kind, st.floats(0.01, 0.99), seeds)
def test_a_split_is_a_partition_with_every_class_on_both_sides(labels, fraction, seed):
    train, test = split_by_class(len(labels), labels, fraction, np.random.default_rng(seed))
    assert sorted([*train, *test]) == list(range(len(labels)))
    for number in np.unique(labels):
        count = int((labels == number).sum())
        in_test = int((labels[test] == number).sum())
        if count == 1:
            assert in_test == 0
        else:
            assert 1 <= in_test <= count - 1
            assert abs(in_test - count * fraction) <= 1


@given(st.integers(2, 200), st.floats(0.01, 0.99), seeds)
def test_without_labels_the_fraction_is_of_the_whole(count, fraction, seed):
    train, test = split_by_class(count, None, fraction, np.random.default_rng(seed))
    assert sorted([*train, *test]) == list(range(count))
    assert abs(len(test) - count * fraction) <= 1


@given(labels_of_any_kind, seeds)
def test_every_prefix_of_a_balanced_order_is_balanced(labels, seed):
    order = balanced_order(len(labels), labels, np.random.default_rng(seed))
    assert sorted(order) == list(range(len(labels)))
    total = np.bincount(labels, minlength=7)
    for length in range(len(labels) + 1):
        taken = np.bincount(labels[order[:length]], minlength=7)
        left = total > taken
        # A class that still has samples left is at most one behind any other.
        assert not left.any() or taken.max() - taken[left].min() <= 1


def test_the_same_seed_gives_the_same_split_and_another_seed_another():
    labels = np.arange(200) % 4
    first, again, other = (split_by_class(200, labels, 0.2, np.random.default_rng(s))[1] for s in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@given(st.lists(st.integers(0, 5), min_size=2, max_size=40), st.data())
def test_no_content_is_left_on_both_sides(contents, data):
    digests = np.array([bytes([c]) for c in contents], "V32")
    cut = data.draw(st.integers(1, len(contents) - 1))
    train, test = np.arange(cut), np.arange(cut, len(contents))
    kept = without_copies(train, test, digests)
    assert not {contents[i] for i in kept} & {contents[i] for i in test}
    assert [i for i in train if contents[i] not in {contents[j] for j in test}] == kept.tolist()


@pytest.mark.parametrize("count", [1, 2])
def test_very_few_samples(count):
    train, test = split_by_class(count, None, 0.2, np.random.default_rng(0))
    assert (len(train), len(test)) == (1, count - 1)
