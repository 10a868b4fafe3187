"""The weights of ONNX's Resize along one axis, following the operator's reference implementation.

Each output place is a weighted sum of a few input places. All modes differ only in which places and weights,
so an axis is a matrix [out, in] (or an index, for nearest), computed once per shape and kept.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch

__all__ = ["Axis", "axis_matrix", "nearest_index", "outside"]

Tensor = torch.Tensor


@dataclass(frozen=True)
class Axis:
    """How one axis is resized. `roi`: start and end for tf_crop_and_resize, as fractions of the axis."""

    size: int
    out: int
    scale: float
    coordinates: str
    roi: tuple[float, float] = (0.0, 1.0)

    def positions(self) -> Tensor:
        """float64 [out]: where each output place lies in input coordinates."""
        x = torch.arange(self.out, dtype=torch.float64)
        length = self.scale * self.size
        centred = (x + 0.5) / self.scale - 0.5
        if self.coordinates == "align_corners":
            return x * (self.size - 1) / (length - 1) if length != 1 else torch.zeros_like(x)
        if self.coordinates == "asymmetric":
            return x / self.scale
        if self.coordinates == "tf_crop_and_resize":
            start, end = (n * (self.size - 1) for n in self.roi)
            return start + (x * (end - start) / (length - 1) if length != 1 else (end - start) / 2 + 0 * x)
        if self.coordinates == "pytorch_half_pixel" and length == 1:
            return torch.full_like(x, -0.5)
        if self.coordinates == "half_pixel_symmetric":
            return self.size / 2 * (1 - self.out / length) + centred
        return centred


@lru_cache(maxsize=256)
def axis_matrix(axis: Axis, mode: str, cubic: float, antialias: bool, exclude_outside: bool) -> Tensor:
    """float64 [out, in] for mode `linear` or `cubic` (coefficient `cubic`)."""
    positions = axis.positions()
    base = torch.ceil(positions) - 1  # the place to the left, so that the ratio lies in (0, 1]
    ratio = (positions - base).unsqueeze(1)
    reach = 1 if mode == "linear" else 2
    shrink = min(axis.scale, 1.0) if antialias else 1.0
    first = math.floor(-reach / shrink) + 1
    offsets = torch.arange(first, 2 - first, dtype=torch.float64)
    distance = ((offsets - ratio) * shrink).abs()
    weights = (1 - distance).clamp(min=0) if mode == "linear" else _cubic(distance, cubic)
    places = base.unsqueeze(1) + offsets
    if exclude_outside:
        weights = torch.where((places < 0) | (places >= axis.size), 0, weights)
    weights = weights / weights.sum(1, keepdim=True)
    matrix = torch.zeros(axis.out, axis.size, dtype=torch.float64)
    return matrix.scatter_add(1, places.clamp(0, axis.size - 1).long(), weights)


def _cubic(x: Tensor, a: float) -> Tensor:
    """Keys' cubic convolution kernel at distance x."""
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return torch.where(x <= 1, near, torch.where(x < 2, far, 0))


@lru_cache(maxsize=256)
def nearest_index(axis: Axis, nearest_mode: str) -> Tensor:
    """int64 [out]: the input place each output place copies."""
    positions = axis.positions()
    base = torch.ceil(positions) - 1
    ratio = positions - base
    right = {
        "round_prefer_floor": ratio > 0.5,
        "round_prefer_ceil": ratio >= 0.5,
        "floor": ratio >= 1,
        "ceil": ratio > 0,
    }[nearest_mode]
    return (base + right).clamp(0, axis.size - 1).long()


def outside(axis: Axis) -> Tensor:
    """bool [out]: places that tf_crop_and_resize fills with the extrapolation value."""
    positions = axis.positions()
    return (positions < 0) | (positions > axis.size - 1)
