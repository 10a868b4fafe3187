"""The rounding of one layer's weights to integers."""

from __future__ import annotations

import numpy as np

from edgeopt.model.layerwise.ridge import solve_lower

__all__ = ["round_in_turn"]

BLOCK = 128
"""Columns that are rounded before the rest of the matrix hears of it: a matrix product instead of many updates."""


def round_in_turn(target: np.ndarray, metric: np.ndarray, limit: int = 127) -> np.ndarray:
    """Integers [groups, outputs, inputs] within +-limit, near `target` as `metric` [groups, inputs, inputs] measures.

    One input after the other is rounded, the most powerful first, and what that changes of the output is made good
    by the inputs that are left. Source: Frantar et al. 2022, GPTQ, arXiv:2210.17323 (and OBQ, arXiv:2208.11580).
    """
    order = np.argsort(-metric.diagonal(axis1=1, axis2=2), axis=1, kind="stable")
    groups = np.arange(len(metric))[:, None, None]
    factor = _inverse_factor(metric[groups, order[:, :, None], order[:, None, :]])
    places = order[:, None, :]
    left = np.take_along_axis(target.astype(factor.dtype, copy=False), places, axis=2)
    rounded = np.empty_like(left)
    for start in range(0, left.shape[2], BLOCK):
        stop = min(start + BLOCK, left.shape[2])
        errors = np.empty_like(left[:, :, start:stop])
        for index in range(start, stop):
            column = left[:, :, index]
            rounded[:, :, index] = column.round().clip(-limit, limit)
            error = (column - rounded[:, :, index]) / factor[:, index, index, None]
            left[:, :, index:stop] -= error[:, :, None] * factor[:, None, index, index:stop]
            errors[:, :, index - start] = error
        left[:, :, stop:] -= errors @ factor[:, start:stop, stop:]
    found = np.empty_like(rounded)
    np.put_along_axis(found, np.broadcast_to(places, found.shape), rounded, axis=2)
    return found


def _inverse_factor(matrix: np.ndarray) -> np.ndarray:
    """Upper triangular U [groups, n, n] with U^T U the inverse of the matrix.

    With rows and columns turned round, the matrix is L L^T and U is the inverse of L, turned round too.
    """
    lower = np.linalg.cholesky(matrix[:, ::-1, ::-1])
    identity = np.broadcast_to(np.eye(lower.shape[1], dtype=lower.dtype), lower.shape)
    return solve_lower(lower, identity)[:, ::-1, ::-1].copy()
