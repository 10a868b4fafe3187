"""Paddings of windows: ONNX's explicit `pads` and `auto_pad`, for convolution and pooling."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

__all__ = ["pad_spatial", "symmetric", "window_pads"]


def window_pads(
    auto_pad: str,
    pads: Sequence[int] | None,
    size: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
) -> list[int]:
    """Padding as ONNX writes it: every axis's begin, then every axis's end (`size`: the spatial shape)."""
    rank = len(size)
    if auto_pad in ("NOTSET", "VALID", ""):
        return list(pads) if pads is not None and auto_pad != "VALID" else [0] * (2 * rank)
    totals = [
        max((-(-size[i] // strides[i]) - 1) * strides[i] + (kernel[i] - 1) * dilations[i] + 1 - size[i], 0)
        for i in range(rank)
    ]
    small, large = [n // 2 for n in totals], [n - n // 2 for n in totals]
    return small + large if auto_pad == "SAME_UPPER" else large + small


def symmetric(pads: Sequence[int]) -> list[int] | None:
    """One number per axis when begin and end agree (torch's own padding), else None."""
    half = len(pads) // 2
    return list(pads[:half]) if list(pads[:half]) == list(pads[half:]) else None


def pad_spatial(x: torch.Tensor, pads: Sequence[int], value: float = 0.0) -> torch.Tensor:
    """Pad the last axes by ONNX-ordered `pads`; a negative number crops."""
    half = len(pads) // 2
    torch_order = [n for axis in reversed(range(half)) for n in (pads[axis], pads[half + axis])]
    return F.pad(x, torch_order, value=value) if any(torch_order) else x
