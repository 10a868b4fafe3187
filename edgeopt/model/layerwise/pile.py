"""A value of every batch, put aside: few bytes stay in memory, more go to a temporary file.

Plain writes and reads, no memory map: what is on disk is then no part of the process, and only one batch at a time is
in memory.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from tempfile import SpooledTemporaryFile
from typing import Any

import numpy as np

from edgeopt.errors import StageFailed

__all__ = ["IN_MEMORY", "Pile", "pile_up"]

IN_MEMORY = 16 * 2**20
"""Bytes of one pile up to which it touches no disk."""


class Pile:
    """Arrays in the order in which they came. The file has no name and is gone with the pile, or with the process."""

    def __init__(self, in_memory: int = IN_MEMORY) -> None:
        self._file = SpooledTemporaryFile(max(1, in_memory))  # noqa: SIM115  (closed by __del__)
        self._kinds: list[tuple[int, np.dtype[Any], tuple[int, ...]]] = []
        self.nbytes = 0

    def __del__(self) -> None:
        self._file.close()

    def __len__(self) -> int:
        return len(self._kinds)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the first array."""
        return self._kinds[0][1]

    @property
    def rank(self) -> int:
        """Of the first array."""
        return len(self._kinds[0][2])

    def append(self, array: np.ndarray) -> None:
        """Put one more aside. Raises StageFailed when the disk is full, or for strings."""
        if array.dtype.hasobject:
            raise StageFailed("a tensor of strings crosses the graph where it has to be cut")
        self._kinds.append((self.nbytes, array.dtype, array.shape))
        try:
            self._file.seek(self.nbytes)
            self._file.write(_flat(np.ascontiguousarray(array)).data)
        except OSError as error:
            fix = "make room, or point the environment variable TMPDIR to a disk that has some"
            raise StageFailed(f"activations could not be put aside in a temporary file ({error})", fix=fix) from error
        self.nbytes += array.nbytes

    def __getitem__(self, index: int) -> np.ndarray:
        """The array at `index`, a copy of one's own."""
        start, dtype, shape = self._kinds[index]
        array = np.empty(shape, dtype)
        self._file.seek(start)
        self._file.readinto(_flat(array).data)
        return array


def pile_up(batches: Iterable[Mapping[str, np.ndarray]], in_memory: int = IN_MEMORY) -> dict[str, Pile]:
    """Name -> the arrays of that name, one of each batch; `in_memory` bytes of each name touch no disk."""
    piles: dict[str, Pile] = {}
    for batch in batches:
        for name, array in batch.items():
            piles.setdefault(name, Pile(in_memory)).append(array)
    return piles


def _flat(array: np.ndarray) -> np.ndarray:
    """The bytes of a contiguous array."""
    return array.reshape(math.prod(array.shape)).view(np.uint8)
