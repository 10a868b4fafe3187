"""Samples that are slow to read: kept once read where they fit in memory, read again each time where not."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

__all__ = ["MEMORY_BUDGET", "Kept"]

MEMORY_BUDGET = 2_000_000_000
"""Bytes of decoded samples that are kept. 60,000 images of 32 x 32 take a tenth of it, 13,000 of 224 x 224
fill it, and a machine of 8 GB still has room for a network and its training."""


class Kept:
    """A Source over a reader of samples, all of one shape and dtype: subclasses say how to `read_many`.

    Memory: everything that was read so far when the whole is within MEMORY_BUDGET, else what one call
    returns.
    """

    def __init__(self, count: int, shape: tuple[int, ...], dtype: np.dtype) -> None:
        self._count, self._shape, self._dtype = count, shape, dtype
        fits = count * int(np.prod(shape)) * dtype.itemsize <= MEMORY_BUDGET
        # np.empty: the pages of samples that nobody reads are never touched.
        self._kept = np.empty((count, *shape), dtype) if fits else None
        self._known = np.zeros(count, bool)

    def read_many(self, indices: np.ndarray) -> Iterator[np.ndarray]:
        """The samples one by one, in the order of `indices`."""
        raise NotImplementedError

    def __len__(self) -> int:
        return self._count

    @property
    def keeps(self) -> bool:
        """Whether there is room for all samples."""
        return self._kept is not None

    def put(self, index: int, sample: np.ndarray) -> None:
        """Keep a sample that was read on another occasion."""
        assert self._kept is not None
        self._kept[index] = sample
        self._known[index] = True

    def read(self, indices: np.ndarray) -> np.ndarray:
        """Samples [n, ...] in the order of `indices`. Two threads may read at once."""
        if self._kept is None:
            out = np.empty((len(indices), *self._shape), self._dtype)
            for at, sample in enumerate(self.read_many(indices)):
                out[at] = sample
            return out
        missing = indices[~self._known[indices]]
        for index, sample in zip(missing.tolist(), self.read_many(missing), strict=True):
            self.put(index, sample)
        taken: np.ndarray = self._kept[indices]
        return taken
