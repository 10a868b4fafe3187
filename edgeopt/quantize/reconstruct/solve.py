"""The rounding of one layer's weights to integers."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["round_in_turn"]

BLOCK = 128
"""Columns that are rounded before the rest of the matrix hears of it: a matrix product instead of many updates."""


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
