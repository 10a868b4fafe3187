"""Least squares for the weights of one layer, and their rounding to integers."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["ridge", "round_in_turn"]

BLOCK = 128
"""Columns that are rounded before the rest of the matrix hears of it: a matrix product instead of many updates."""
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


def round_in_turn(target: Tensor, metric: Tensor, limit: int = 127) -> Tensor:
    """Integers [groups, outputs, inputs] within +-limit, near `target` as `metric` [groups, inputs, inputs] measures.

    One input after the other is rounded, the most powerful first, and what that changes of the output is made good
    by the inputs that are left. Source: Frantar et al. 2022, GPTQ, arXiv:2210.17323 (and OBQ, arXiv:2208.11580).
    """
    order = metric.diagonal(dim1=1, dim2=2).argsort(dim=1, descending=True, stable=True)
    rows = order[:, :, None].expand_as(metric)
    columns = order[:, None, :].expand_as(metric)
    sorted_metric = metric.gather(1, rows).gather(2, columns)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(sorted_metric))
    factor = torch.linalg.cholesky(inverse, upper=True)
    places = order[:, None, :].expand_as(target)
    left = target.to(factor.dtype).gather(2, places)
    rounded = torch.empty_like(left)
    for start in range(0, left.shape[2], BLOCK):
        stop = min(start + BLOCK, left.shape[2])
        errors = torch.empty_like(left[:, :, start:stop])
        for index in range(start, stop):
            column = left[:, :, index]
            rounded[:, :, index] = column.round().clamp_(-limit, limit)
            error = (column - rounded[:, :, index]) / factor[:, index, index, None]
            left[:, :, index:stop] -= error[:, :, None] * factor[:, None, index, index:stop]
            errors[:, :, index - start] = error
        left[:, :, stop:] -= errors @ factor[:, start:stop, stop:]
    return torch.empty_like(rounded).scatter_(2, places, rounded)
