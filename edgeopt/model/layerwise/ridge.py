"""Least squares with a charge on every change: what is fitted to few samples stays near what was there."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["damped", "ridge"]

LARGEST_DOUBLE = 1024
"""Inputs up to which matrices are factored in float64."""


def ridge(xx: Tensor, ex: Tensor, strength: float) -> Tensor:
    """The change D [groups, outputs, inputs] of least |e - D x|^2 + strength * sum_j xx_jj D_j^2.

    A change of an input's weight is charged by that input's power, so that no unit of an input matters.
    """
    factor = torch.linalg.cholesky(damped(xx, strength))
    return torch.cholesky_solve(ex.to(factor.dtype).mT, factor).mT


def damped(xx: Tensor, strength: float) -> Tensor:
    """`xx` with its diagonal grown by `strength`; an input that was never seen gets a power of its own.

    float64, or float32 where the matrices would be too large for it.
    """
    matrix = xx.double() if xx.shape[1] <= LARGEST_DOUBLE else xx
    power = matrix.diagonal(dim1=1, dim2=2)
    floor = power.mean(1, keepdim=True).clamp_min(1e-30) * 1e-6
    return matrix + torch.diag_embed(power.clamp_min(0) * strength + floor)
