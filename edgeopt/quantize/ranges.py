"""Range -> scale and zero point: the affine map between real numbers and 8-bit integers.

    real = scale * (integer - zero_point)

as ONNX's QuantizeLinear defines it (saturating, round half to even). Zero always maps to an integer exactly:
zero padding and ReLU then cost no accuracy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

__all__ = ["SMALLEST_SCALE", "Grid", "Range", "make_grid"]

SMALLEST_SCALE = 1e-15
"""Lower bound of every scale: a bias has scale input*weight, and that product has to be a normal float32."""


@dataclass(frozen=True)
class Range:
    """Real numbers from `low` to `high`; what lies outside is clipped."""

    low: float
    high: float


@dataclass(frozen=True)
class Grid:
    """The 256 real numbers that one tensor may take: float32 `scale`, integer `zero_point` of `dtype`."""

    scale: np.float32
    zero_point: int
    dtype: np.dtype[Any]

    @property
    def levels(self) -> tuple[int, int]:
        """Smallest and largest integer."""
        info = np.iinfo(self.dtype)
        return int(info.min), int(info.max)

    @property
    def range(self) -> Range:
        """Smallest and largest real number."""
        low, high = (float(self.scale) * (level - self.zero_point) for level in self.levels)
        return Range(low, high)

    def quantize(self, values: np.ndarray) -> np.ndarray:
        """Integers of `values`, as QuantizeLinear computes them. Same shape, `dtype`."""
        integers = np.rint(np.asarray(values, np.float32) / self.scale) + self.zero_point
        return np.asarray(np.clip(integers, *self.levels), self.dtype)

    def dequantize(self, integers: np.ndarray) -> np.ndarray:
        """Real numbers of `integers`, float32, as DequantizeLinear computes them."""
        return np.asarray((integers.astype(np.float32) - np.float32(self.zero_point)) * self.scale)


def make_grid(chosen: Range, *, symmetric: bool, dtype: Literal["int8", "uint8"]) -> Grid:
    """The finest grid that covers `chosen`, widened to hold zero.

    Symmetric: scale max|x|/127 around the middle integer (0 for int8, 128 for uint8). Asymmetric: all 256 integers
    are spread over the range. A range that is only zero gets scale 1.
    """
    low, high = min(chosen.low, 0.0), max(chosen.high, 0.0)
    kind = np.dtype(dtype)
    smallest = int(np.iinfo(kind).min)
    if symmetric:
        return Grid(_scale(max(-low, high) / 127), smallest + 128, kind)
    scale = _scale((high - low) / 255)
    return Grid(scale, int(np.clip(smallest - np.rint(low / float(scale)), smallest, smallest + 255)), kind)


def _scale(step: float) -> np.float32:
    return np.float32(max(step, SMALLEST_SCALE)) if step > 0 else np.float32(1)
