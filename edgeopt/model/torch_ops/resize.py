"""Resampling of feature maps."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F

from edgeopt.model.torch_ops.interpolation import Axis, axis_matrix, nearest_index, outside
from edgeopt.model.torch_ops.operator import Ints, Operator, ints

__all__ = ["OPERATORS"]

Tensor = torch.Tensor
Floats = Sequence[float] | Tensor


def resize(
    x: Tensor,
    roi: Floats | None = None,
    scales: Floats | None = None,
    sizes: Ints | None = None,
    *,
    antialias: int = 0,
    axes: Sequence[int] | None = None,
    coordinate_transformation_mode: str = "half_pixel",
    cubic_coeff_a: float = -0.75,
    exclude_outside: int = 0,
    extrapolation_value: float = 0.0,
    keep_aspect_ratio_policy: str = "stretch",
    mode: str = "nearest",
    nearest_mode: str = "round_prefer_floor",
) -> Tensor:
    """Axis after axis; an axis that keeps its size and its places costs nothing."""
    over = [a % x.dim() for a in axes] if axes is not None else list(range(x.dim()))
    plans = _plan(x, over, _floats(roi), _floats(scales), sizes, keep_aspect_ratio_policy)
    y = x if x.is_floating_point() or mode == "nearest" else x.to(torch.float32)
    crop = coordinate_transformation_mode == "tf_crop_and_resize"
    masks = []
    for dim, out, scale, window in plans:
        axis = Axis(x.shape[dim], out, scale, coordinate_transformation_mode, window if crop else (0.0, 1.0))
        if scale == 1 and axis.size == axis.out and axis.roi == (0.0, 1.0):
            continue
        if mode == "nearest":
            y = y.index_select(dim, nearest_index(axis, nearest_mode).to(y.device))
        else:
            matrix = axis_matrix(axis, mode, cubic_coeff_a, bool(antialias), bool(exclude_outside))
            y = _apply(y, dim, matrix.to(device=y.device, dtype=y.dtype))
        if crop:
            masks.append(outside(axis).to(y.device).reshape(-1, *[1] * (x.dim() - 1 - dim)))
    for mask in masks:
        y = torch.where(mask, torch.as_tensor(extrapolation_value, dtype=y.dtype, device=y.device), y)
    return y.to(x.dtype)


Plan = list[tuple[int, int, float, tuple[float, float]]]


def _plan(x: Tensor, over: list[int], roi: list[float], scales: list[float], sizes: Ints | None, policy: str) -> Plan:
    """Per axis: dimension, output size, scale, window."""
    shape = [x.shape[a] for a in over]
    if scales:
        outs = [math.floor(size * scale) for size, scale in zip(shape, scales, strict=True)]
    else:
        assert sizes is not None, "Resize has either scales or sizes"
        outs = ints(sizes)
        scales = [out / size for out, size in zip(outs, shape, strict=True)]
        if policy != "stretch":
            one = min(scales) if policy == "not_larger" else max(scales)
            scales = [one] * len(over)
            outs = [math.floor(one * size + 0.5) for size in shape]
    windows = [(roi[i], roi[len(over) + i]) if roi else (0.0, 1.0) for i in range(len(over))]
    return list(zip(over, outs, scales, windows, strict=True))


def _floats(value: Floats | None) -> list[float]:
    found = value.tolist() if isinstance(value, Tensor) else value
    return [float(n) for n in found] if found is not None else []


def _apply(x: Tensor, dim: int, matrix: Tensor) -> Tensor:
    return torch.matmul(x.movedim(dim, -1), matrix.t()).movedim(-1, dim)


def upsample(x: Tensor, scales: Floats, *, mode: str = "nearest") -> Tensor:
    """Resize as it was before opset 10."""
    return resize(x, None, scales, mode=mode, coordinate_transformation_mode="asymmetric", nearest_mode="floor")


def grid_sample(
    x: Tensor, grid: Tensor, *, align_corners: int = 0, mode: str = "linear", padding_mode: str = "zeros"
) -> Tensor:
    """Opset 16 calls the modes bilinear and bicubic."""
    name = {"linear": "bilinear", "cubic": "bicubic"}.get(mode, mode)
    return F.grid_sample(x, grid.to(x.dtype), name, padding_mode, bool(align_corners))


def affine_grid(theta: Tensor, size: Ints, *, align_corners: int = 0) -> Tensor:
    return F.affine_grid(theta, ints(size), bool(align_corners))


def center_crop_pad(x: Tensor, shape: Ints, *, axes: Sequence[int] | None = None) -> Tensor:
    """Cut or zero-fill evenly on both sides; the odd one goes to the end."""
    over = axes if axes is not None else range(x.dim())
    for axis, wanted in zip(over, ints(shape), strict=True):
        size = x.shape[axis]
        if wanted < size:
            x = x.narrow(axis, (size - wanted) // 2, wanted)
        elif wanted > size:
            before = (wanted - size) // 2
            sides = [0, 0] * (x.dim() - 1 - axis % x.dim()) + [before, wanted - size - before]
            x = F.pad(x, sides)
    return x


OPERATORS: dict[str, Operator] = {
    "AffineGrid": Operator(affine_grid, static=(1,)),
    "CenterCropPad": Operator(center_crop_pad, static=(1,)),
    "GridSample": Operator(grid_sample),
    "Resize": Operator(resize, static=(1, 2, 3)),
    "Upsample": Operator(upsample, static=(1,)),
}
