"""Which samples are for training and which for testing: pure functions of labels and a random generator."""

from __future__ import annotations

import numpy as np

__all__ = ["balanced_order", "split_by_class", "without_copies"]


def balanced_order(count: int, labels: np.ndarray | None, rng: np.random.Generator) -> np.ndarray:
    """A random order of 0..count-1 in which the classes take turns, so that every prefix is balanced.

    Without labels it is a plain permutation. Deterministic in (labels, state of rng).
    """
    shuffled = rng.permutation(count)
    if labels is None:
        return shuffled
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    turn = np.empty(count, np.int64)
    start = 0
    for size in np.unique(labels, return_counts=True)[1]:
        turn[start : start + size] = np.arange(size)
        start += size
    # Within a turn the classes come in random order: a prefix must not favour the low class numbers.
    return by_class[np.lexsort((rng.permutation(count), turn))]


def split_by_class(
    count: int, labels: np.ndarray | None, test_fraction: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Positions (train, test), each sorted: `test_fraction` of every class, without labels of the whole.

    A class of two or more has at least one sample on each side; a class of one is for training.
    """
    groups = np.zeros(count, np.int64) if labels is None else labels
    test = np.zeros(count, bool)
    for group in np.unique(groups):
        members = rng.permutation(np.flatnonzero(groups == group))
        wanted = round(len(members) * test_fraction)
        test[members[: min(max(wanted, 1), len(members) - 1)]] = True
    return np.flatnonzero(~test), np.flatnonzero(test)


def without_copies(train: np.ndarray, test: np.ndarray, digests: np.ndarray) -> np.ndarray:
    """`train` less the positions whose content (equal `digests`) is in `test` too."""
    return train[~np.isin(digests[train], digests[test])]
