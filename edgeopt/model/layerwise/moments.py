"""Second moments of a layer's input and of its error: all that least squares has to know of the samples."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import DTypeLike

__all__ = ["Moments"]

BLOCK = 1024
"""Inputs whose products are in memory beside the sums."""


@dataclass
class Moments:
    """Sums over rows of x [groups, inputs] and of the error e [groups, outputs] that is to be explained by x."""

    xx: np.ndarray
    """[groups, inputs, inputs], in the type that was asked for; the sums of single rows are float64."""
    ex: np.ndarray
    """[groups, outputs, inputs], likewise."""
    x: np.ndarray
    e: np.ndarray
    ee: np.ndarray
    rows: int = 0

    @staticmethod
    def empty(groups: int, outputs: int, inputs: int, dtype: DTypeLike = np.float32) -> Moments:
        return Moments(
            np.zeros((groups, inputs, inputs), dtype),
            np.zeros((groups, outputs, inputs), dtype),
            np.zeros((groups, inputs)),
            np.zeros((groups, outputs)),
            np.zeros((groups, outputs)),
        )

    def add(self, x: np.ndarray, e: np.ndarray) -> None:
        """Count rows: `x` [groups, n, inputs], `e` [groups, n, outputs]."""
        wide = x.astype(self.xx.dtype, copy=False)
        errors = e.astype(self.xx.dtype, copy=False)
        for start in range(0, x.shape[2], BLOCK):
            part = slice(start, start + BLOCK)
            self.xx[:, part] += wide[:, :, part].swapaxes(1, 2) @ wide
        self.ex += errors.swapaxes(1, 2) @ wide
        self.x += x.sum(1, dtype=np.float64)
        self.e += e.sum(1, dtype=np.float64)
        self.ee += np.square(e).sum(1, dtype=np.float64)
        self.rows += x.shape[1]

    def merge(self, other: Moments) -> None:
        """Count `other`'s rows too."""
        self.xx += other.xx
        self.ex += other.ex
        self.x += other.x
        self.e += other.e
        self.ee += other.ee
        self.rows += other.rows

    def centred(self) -> Moments:
        """The same about the means: what is left for weights once a bias takes the means."""
        x, e = self.x / max(self.rows, 1), self.e / max(self.rows, 1)
        return Moments(
            self.xx - (self.x[:, :, None] * x[:, None]).astype(self.xx.dtype),
            self.ex - (self.e[:, :, None] * x[:, None]).astype(self.ex.dtype),
            np.zeros_like(self.x),
            np.zeros_like(self.e),
            self.ee - self.e * e,
            self.rows,
        )

    def error(self, change: np.ndarray, shift: np.ndarray) -> np.ndarray:
        """float64 [groups, outputs]: summed squares of e - change @ x - shift."""
        squares = ((change @ self.xx) * change).sum(2, dtype=np.float64)
        cross = (change * self.ex).sum(2, dtype=np.float64)
        reach = (change.astype(np.float64) @ self.x[:, :, None])[:, :, 0]
        return np.asarray(self.ee + squares - 2 * cross + shift * (2 * reach - 2 * self.e + self.rows * shift))
