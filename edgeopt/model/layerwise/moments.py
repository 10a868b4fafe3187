"""Second moments of a layer's input and of its error: all that least squares has to know of the samples."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Moments"]


@dataclass
class Moments:
    """Sums over rows of x [groups, inputs] and of the error e [groups, outputs] that is to be explained by x."""

    xx: Tensor
    """[groups, inputs, inputs], in the type that was asked for; the sums of single rows are float64."""
    ex: Tensor
    """[groups, outputs, inputs], likewise."""
    x: Tensor
    e: Tensor
    ee: Tensor
    rows: int = 0

    @staticmethod
    def empty(groups: int, outputs: int, inputs: int, dtype: torch.dtype = torch.float32) -> Moments:
        return Moments(
            torch.zeros(groups, inputs, inputs, dtype=dtype),
            torch.zeros(groups, outputs, inputs, dtype=dtype),
            torch.zeros(groups, inputs, dtype=torch.float64),
            torch.zeros(groups, outputs, dtype=torch.float64),
            torch.zeros(groups, outputs, dtype=torch.float64),
        )

    def add(self, x: Tensor, e: Tensor) -> None:
        """Count rows: `x` [groups, n, inputs], `e` [groups, n, outputs]."""
        wide, errors = x.to(self.xx.dtype), e.to(self.xx.dtype)
        self.xx.baddbmm_(wide.mT, wide)
        self.ex.baddbmm_(errors.mT, wide)
        self.x += x.sum(1, dtype=torch.float64)
        self.e += e.sum(1, dtype=torch.float64)
        self.ee += e.square().sum(1, dtype=torch.float64)
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
            self.xx - (self.x[:, :, None] * x[:, None]).to(self.xx.dtype),
            self.ex - (self.e[:, :, None] * x[:, None]).to(self.ex.dtype),
            torch.zeros_like(self.x),
            torch.zeros_like(self.e),
            self.ee - self.e * e,
            self.rows,
        )

    def error(self, change: Tensor, shift: Tensor) -> Tensor:
        """float64 [groups, outputs]: summed squares of e - change @ x - shift."""
        squares = ((change @ self.xx) * change).sum(2, dtype=torch.float64)
        cross = (change * self.ex).sum(2, dtype=torch.float64)
        reach = (change.double() @ self.x[:, :, None])[:, :, 0]
        return self.ee + squares - 2 * cross + shift * (2 * reach - 2 * self.e + self.rows * shift)
