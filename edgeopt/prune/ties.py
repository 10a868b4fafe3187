"""Union-find over integer labels, on whole arrays at a time.

Label 0 is the fixed label: what carries it is never removed. It is never united with another label, which would
make one component of everything that is fixed; a label that meets it is pinned instead, with the reason.
"""

from __future__ import annotations

import numpy as np

__all__ = ["FIXED", "Ties"]

FIXED = 0


class Ties:
    """Labels, which of them leave together, and which of them stay for what reason."""

    def __init__(self) -> None:
        self._parent = np.zeros(1024, np.int64)
        self._count = 1
        self._pins: list[tuple[np.ndarray, str]] = []

    @property
    def count(self) -> int:
        """Number of labels, the fixed one included."""
        return self._count

    def fresh(self, *shape: int) -> np.ndarray:
        """New labels, each alone, in an array of this shape."""
        size = int(np.prod(shape))
        while self._count + size > len(self._parent):
            self._parent = np.concatenate([self._parent, np.zeros_like(self._parent)])
        labels = np.arange(self._count, self._count + size)
        self._parent[labels] = labels
        self._count += size
        return labels.reshape(shape)

    def unite(self, first: np.ndarray, second: np.ndarray, reason: str) -> None:
        """`first[i]` and `second[i]` leave together (broadcasting); next to a fixed label both are pinned."""
        first, second = (np.ravel(side) for side in np.broadcast_arrays(first, second))
        fixed = (first == FIXED) != (second == FIXED)
        if fixed.any():
            self.pin(np.maximum(first, second)[fixed], reason)
        free = (first != FIXED) & (second != FIXED)
        self._hook(first[free], second[free])

    def pin(self, labels: np.ndarray, reason: str) -> None:
        """These labels stay; the first reason given is the one that is reported."""
        labels = np.unique(labels)
        labels = labels[labels != FIXED]
        if labels.size:
            self._pins.append((labels, reason))

    def roots(self) -> np.ndarray:
        """For every label, the smallest label it leaves together with."""
        return self._find(np.arange(self._count))

    def pinned(self) -> dict[int, str]:
        """Root -> why it stays."""
        reasons: dict[int, str] = {}
        for labels, reason in self._pins:
            for root in np.unique(self._find(labels)):
                reasons.setdefault(int(root), reason)
        return reasons

    def _find(self, labels: np.ndarray) -> np.ndarray:
        parent = self._parent
        found: np.ndarray = parent[labels]
        while True:
            above = parent[found]
            if np.array_equal(above, found):
                parent[labels] = found
                return found
            found = above

    def _hook(self, first: np.ndarray, second: np.ndarray) -> None:
        """Hang the larger of two roots under the smaller until no pair differs; parents only ever get smaller."""
        while first.size:
            first, second = self._find(first), self._find(second)
            low, high = np.minimum(first, second), np.maximum(first, second)
            apart = low != high
            first, second = low[apart], high[apart]
            np.minimum.at(self._parent, second, first)
