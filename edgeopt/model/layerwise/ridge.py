"""Least squares with a charge on every change: what is fitted to few samples stays near what was there.

In numpy, so that nothing here costs the memory of torch.
"""

from __future__ import annotations

import numpy as np

__all__ = ["LARGEST_DOUBLE", "damped", "ridge", "solve_lower"]

LARGEST_DOUBLE = 1024
"""Inputs up to which matrices are factored in float64."""
BLOCK = 128
"""Rows of a triangular system that are solved at once."""


def ridge(xx: np.ndarray, ex: np.ndarray, strength: float) -> np.ndarray:
    """The change D [groups, outputs, inputs] of least |e - D x|^2 + strength * sum_j xx_jj D_j^2.

    A change of an input's weight is charged by that input's power, so that no unit of an input matters.
    """
    lower = np.linalg.cholesky(damped(xx, strength))
    half = solve_lower(lower, ex.swapaxes(1, 2).astype(lower.dtype, copy=False))
    # L^T is lower triangular again with its rows and columns turned round
    turned = lower.swapaxes(1, 2)[:, ::-1, ::-1]
    return solve_lower(turned, half[:, ::-1])[:, ::-1].swapaxes(1, 2)


def damped(xx: np.ndarray, strength: float) -> np.ndarray:
    """`xx` with its diagonal grown by `strength`; an input that was never seen gets a power of its own.

    float64, or float32 where the matrices would be too large for it.
    """
    matrix = xx.astype(np.float64 if xx.shape[1] <= LARGEST_DOUBLE else xx.dtype)
    power = matrix.diagonal(axis1=1, axis2=2)
    floor = np.maximum(power.mean(1, keepdims=True), 1e-30) * 1e-6
    extra = np.maximum(power, 0) * strength + floor
    index = np.arange(matrix.shape[1])
    matrix[:, index, index] += extra
    return matrix


def solve_lower(lower: np.ndarray, right: np.ndarray) -> np.ndarray:
    """X of L X = R, for lower triangular L [groups, n, n] and R [groups, n, m]."""
    found = np.empty_like(right)
    for start in range(0, lower.shape[1], BLOCK):
        part = slice(start, start + BLOCK)
        known = lower[:, part, :start] @ found[:, :start]
        found[:, part] = np.linalg.solve(lower[:, part, part], right[:, part] - known)
    return found
