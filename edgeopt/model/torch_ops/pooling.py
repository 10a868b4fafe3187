"""Pooling over windows and over whole feature maps."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F

from edgeopt.model.torch_ops.operator import Operator
from edgeopt.model.torch_ops.padding import pad_spatial, symmetric, window_pads

__all__ = ["OPERATORS"]

Tensor = torch.Tensor

_MAX_POOL: tuple[Callable[..., Any], ...] = (F.max_pool1d, F.max_pool2d, F.max_pool3d)
_AVERAGE_POOL: tuple[Callable[..., Any], ...] = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)


def global_average_pool(x: Tensor) -> Tensor:
    return x.mean(list(range(2, x.dim())), keepdim=True)


def global_max_pool(x: Tensor) -> Tensor:
    return x.amax(list(range(2, x.dim())), keepdim=True)


def max_pool(
    x: Tensor,
    *,
    kernel_shape: Sequence[int],
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    storage_order: int = 0,
    strides: Sequence[int] | None = None,
    outputs: int = 1,
) -> Tensor | tuple[Tensor, Tensor]:
    """With a second output the flat index of each maximum in x, as ONNX counts (batch and channels included).

    torch pads by itself where it can; else the smallest value is put around by hand.
    """
    rank = len(kernel_shape)
    pool = _MAX_POOL[rank - 1]
    strides, dilations = strides or [1] * rank, dilations or [1] * rank
    wanted = window_pads(auto_pad, pads, x.shape[2:], kernel_shape, strides, dilations)
    work = x if x.is_floating_point() else x.to(torch.float32)
    padding = symmetric(wanted)
    if outputs == 1 and padding is not None and _within_half(padding, kernel_shape):
        plain: Tensor = pool(work, kernel_shape, strides, padding, dilations, bool(ceil_mode))
        return plain.to(x.dtype)
    lowest = -float("inf") if x.is_floating_point() else float(torch.iinfo(x.dtype).min)
    padded = pad_spatial(work, wanted, lowest)
    y, flat = pool(padded, kernel_shape, strides, 0, dilations, bool(ceil_mode), True)
    y = y.to(x.dtype)
    return y if outputs == 1 else (y, _indices(flat, x.shape, padded.shape, wanted, storage_order))


def _within_half(padding: Sequence[int], kernel: Sequence[int]) -> bool:
    """torch pads by at most half a window."""
    return all(2 * p <= k for p, k in zip(padding, kernel, strict=True))


def _indices(
    flat: Tensor, shape: Sequence[int], padded: Sequence[int], pads: Sequence[int], storage_order: int
) -> Tensor:
    """Indices within each padded map -> indices in the whole of x, row or column major."""
    rank = len(shape) - 2
    coordinates = []
    for axis in reversed(range(rank)):
        coordinates.append(flat % padded[2 + axis] - pads[axis])
        flat = flat // padded[2 + axis]
    coordinates.reverse()
    order = reversed(range(rank)) if storage_order else range(rank)
    index = torch.zeros_like(flat)
    for axis in order:
        index = index * shape[2 + axis] + coordinates[axis]
    maps = torch.arange(shape[0] * shape[1], device=flat.device).reshape(shape[0], shape[1], *[1] * rank)
    return index + maps * math.prod(shape[2:])


def average_pool(
    x: Tensor,
    *,
    kernel_shape: Sequence[int],
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    count_include_pad: int = 0,
    dilations: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Tensor:
    """Torch's own pooling where it says the same; else windowed sums over windowed counts."""
    rank = len(kernel_shape)
    strides, dilations = strides or [1] * rank, dilations or [1] * rank
    wanted = window_pads(auto_pad, pads, x.shape[2:], kernel_shape, strides, dilations)
    padding = symmetric(wanted)
    if set(dilations) == {1} and padding is not None and _within_half(padding, kernel_shape):
        pool = _AVERAGE_POOL[rank - 1]
        plain: Tensor = pool(x, kernel_shape, strides, padding, bool(ceil_mode), bool(count_include_pad))
        return plain
    ones = torch.ones_like(x[:1, :1])
    counted = pad_spatial(ones, wanted, float(count_include_pad))
    end = _ceil_extra(x, kernel_shape, strides, dilations, wanted) if ceil_mode else [0] * rank
    zeros = [0] * rank
    sums = _window_sum(pad_spatial(pad_spatial(x, wanted), zeros + end), kernel_shape, strides, dilations)
    counts = _window_sum(pad_spatial(counted, zeros + end), kernel_shape, strides, dilations)
    return sums / counts


def _ceil_extra(
    x: Tensor, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int], pads: Sequence[int]
) -> list[int]:
    """How far the last window of ceil_mode reaches over the padded map, per axis."""
    rank = len(kernel)
    extra = []
    for i in range(rank):
        size = x.shape[2 + i] + pads[i] + pads[rank + i]
        reach = (kernel[i] - 1) * dilations[i] + 1
        steps = -(-(size - reach) // strides[i])
        if steps * strides[i] >= x.shape[2 + i] + pads[i]:
            steps -= 1  # it would lie in the padding alone
        extra.append(max(steps * strides[i] + reach - size, 0))
    return extra


def _window_sum(x: Tensor, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]) -> Tensor:
    rank, channels = len(kernel), x.shape[1]
    weight = x.new_ones(channels, 1, *kernel)
    return torch.convolution(x, weight, None, strides, [0] * rank, dilations, False, [0] * rank, channels)


def lp_pool(
    x: Tensor,
    *,
    kernel_shape: Sequence[int],
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: Sequence[int] | None = None,
    p: int = 2,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Tensor:
    """p-norm of each window."""
    rank = len(kernel_shape)
    strides, dilations = strides or [1] * rank, dilations or [1] * rank
    wanted = window_pads(auto_pad, pads, x.shape[2:], kernel_shape, strides, dilations)
    end = _ceil_extra(x, kernel_shape, strides, dilations, wanted) if ceil_mode else [0] * rank
    padded = pad_spatial(pad_spatial(x.abs() ** p, wanted), [0] * rank + end)
    return _window_sum(padded, kernel_shape, strides, dilations) ** (1 / p)


OPERATORS: dict[str, Operator] = {
    "AveragePool": Operator(average_pool),
    "GlobalAveragePool": Operator(global_average_pool),
    "GlobalMaxPool": Operator(global_max_pool),
    "LpPool": Operator(lp_pool),
    "MaxPool": Operator(max_pool, wants=("outputs",)),
}
