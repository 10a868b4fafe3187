"""Second moments of a layer's input and of its error: all that least squares has to know of the samples."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import DTypeLike

__all__ = ["Moments"]

BLOCK = 512
"""Inputs whose products are in memory beside the sums. Of a symmetric matrix the blocks on and right of the diagonal
are computed, which is little more than half of them where there are many."""
ROUNDING = 3e-7
"""Of all power: what float32 sums are off by. Where inputs hardly vary, nothing else is left about their means."""


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
    rows: float = 0
    """How many, or the sum of their weights."""

    @staticmethod
    def empty(groups: int, outputs: int, inputs: int, dtype: DTypeLike = np.float32) -> Moments:
        return Moments(
            np.zeros((groups, inputs, inputs), dtype),
            np.zeros((groups, outputs, inputs), dtype),
            np.zeros((groups, inputs)),
            np.zeros((groups, outputs)),
            np.zeros((groups, outputs)),
        )

    def add(self, x: np.ndarray, e: np.ndarray, weights: np.ndarray | None = None) -> None:
        """Count rows: `x` [groups, n, inputs], `e` [groups, n, outputs], each as often as `weights` [n] say."""
        wide = x.astype(self.xx.dtype, copy=False)
        errors = e.astype(self.xx.dtype, copy=False)
        if weights is not None:
            x, e = (rows * weights[:, None].astype(rows.dtype) for rows in (x, e))
        weighed, errors_weighed = (rows.astype(self.xx.dtype, copy=False) for rows in (x, e))
        for start in range(0, x.shape[2], BLOCK):
            part = slice(start, start + BLOCK)
            self.xx[:, part, start:] += weighed[:, :, part].swapaxes(1, 2) @ wide[:, :, start:]
            self.xx[:, start + BLOCK :, part] = self.xx[:, part, start + BLOCK :].swapaxes(1, 2)
        self.ex += errors_weighed.swapaxes(1, 2) @ wide
        self.x += x.sum(1, dtype=np.float64)
        self.e += e.sum(1, dtype=np.float64)
        self.ee += (e * errors).sum(1, dtype=np.float64)
        self.rows += x.shape[1] if weights is None else float(weights.sum())

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
        rows = self.rows or 1
        x, e = self.x / rows, self.e / rows
        xx = self.xx.copy()
        for start in range(0, xx.shape[1], BLOCK):
            part = slice(start, start + BLOCK)
            xx[:, part] -= (self.x[:, part, None] * x[:, None]).astype(xx.dtype)
        index = np.arange(xx.shape[1])
        xx[:, index, index] += ROUNDING * np.trace(self.xx, axis1=1, axis2=2)[:, None]
        return Moments(
            xx,
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
