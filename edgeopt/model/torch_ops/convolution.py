"""Convolutions over one to three axes, any padding, and the sum of overlapping blocks that is their reverse."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F

from edgeopt.model.torch_ops.operator import Ints, Operator, ints
from edgeopt.model.torch_ops.padding import pad_spatial, symmetric, window_pads

__all__ = ["OPERATORS"]

Tensor = torch.Tensor

CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
"""By spatial rank. On a CPU autocast knows these and leaves `torch.convolution`, which takes any rank, alone."""
CONV_TRANSPOSE = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Sequence[int] | None = None,
    group: int = 1,
    kernel_shape: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Tensor:
    """x [n, c, ...], weight [m, c/group, ...]; torch's own padding where begin and end agree."""
    rank = x.dim() - 2
    strides, dilations = strides or [1] * rank, dilations or [1] * rank
    wanted = window_pads(auto_pad, pads, x.shape[2:], weight.shape[2:], strides, dilations)
    padding = symmetric(wanted)
    if padding is None:
        x, padding = pad_spatial(x, wanted), [0] * rank
    return CONV[rank](x, weight, bias, strides, padding, dilations, group)


def conv_transpose(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Sequence[int] | None = None,
    group: int = 1,
    kernel_shape: Sequence[int] | None = None,
    output_padding: Sequence[int] | None = None,
    output_shape: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Tensor:
    """x [n, c, ...], weight [c, m/group, ...]; asymmetric pads crop the unpadded result."""
    rank = x.dim() - 2
    strides, dilations = strides or [1] * rank, dilations or [1] * rank
    extra = list(output_padding or [0] * rank)
    full = [
        (x.shape[2 + i] - 1) * strides[i] + (weight.shape[2 + i] - 1) * dilations[i] + 1 + extra[i] for i in range(rank)
    ]
    if output_shape is None and auto_pad.startswith("SAME"):
        output_shape = [x.shape[2 + i] * strides[i] for i in range(rank)]
    if output_shape is not None:
        wanted = _pads_for(list(output_shape)[-rank:], full, auto_pad)
    else:
        wanted = list(pads) if pads is not None and auto_pad != "VALID" else [0] * (2 * rank)
    padding = symmetric(wanted)
    # torch wants output_padding below the stride; outside of that, and for uneven pads, crop or extend afterwards.
    if padding is not None and min(padding) >= 0 and all(e < s for e, s in zip(extra, strides, strict=True)):
        return CONV_TRANSPOSE[rank](x, weight, bias, strides, padding, extra, group, dilations)
    zeros = [0] * rank
    y = CONV_TRANSPOSE[rank](x, weight, None, strides, zeros, zeros, group, dilations)
    y = pad_spatial(y, zeros + extra)
    y = pad_spatial(y, [-n for n in wanted])
    return y if bias is None else y + bias.reshape(-1, *[1] * rank)


def _pads_for(shape: Sequence[int], full: Sequence[int], auto_pad: str) -> list[int]:
    totals = [have - want for have, want in zip(full, shape, strict=True)]
    small, large = [n // 2 for n in totals], [n - n // 2 for n in totals]
    return small + large if auto_pad == "SAME_UPPER" else large + small


def deform_conv(
    x: Tensor,
    weight: Tensor,
    offset: Tensor,
    bias: Tensor | None = None,
    mask: Tensor | None = None,
    *,
    dilations: Sequence[int] | None = None,
    group: int = 1,
    kernel_shape: Sequence[int] | None = None,
    offset_group: int = 1,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Tensor:
    """torchvision's, which takes the groups from the shapes; uneven pads are put around by hand."""
    from torchvision.ops import deform_conv2d

    wanted = list(pads or [0, 0, 0, 0])
    padding = symmetric(wanted)
    if padding is None:
        x, padding = pad_spatial(x, wanted), [0, 0]
    y: Tensor = deform_conv2d(
        x, offset, weight, bias, tuple(strides or (1, 1)), tuple(padding), tuple(dilations or (1, 1)), mask
    )
    return y


def col2im(
    x: Tensor,
    image_shape: Ints,
    block_shape: Ints,
    *,
    dilations: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Tensor:
    """x [n, c * block, blocks] -> [n, c, image]: blocks are added up where they overlap. torch's own fold over two axes
    with even pads; else each element is added at its place in the padded image.
    """
    image, block = ints(image_shape), ints(block_shape)
    rank = len(image)
    strides, dilations, pads = strides or [1] * rank, dilations or [1] * rank, pads or [0] * 2 * rank
    padding = symmetric(pads)
    if rank == 2 and padding is not None:
        return F.fold(x, tuple(image), tuple(block), tuple(dilations), tuple(padding), tuple(strides))
    padded = [size + pads[axis] + pads[rank + axis] for axis, size in enumerate(image)]
    places = _places(padded, block, dilations, strides).to(x.device)
    flat = x.reshape(x.shape[0], x.shape[1] // math.prod(block), -1)
    summed = flat.new_zeros(*flat.shape[:2], math.prod(padded)).index_add(2, places, flat)
    return pad_spatial(summed.reshape(*flat.shape[:2], *padded), [-n for n in pads])


def _places(size: Sequence[int], block: Sequence[int], dilations: Sequence[int], strides: Sequence[int]) -> Tensor:
    """[elements of a block * blocks]: where each lies in a flattened image of this size."""
    rank = len(size)
    places = torch.zeros([1] * 2 * rank, dtype=torch.int64)
    for axis in range(rank):
        starts = torch.arange(0, size[axis] - dilations[axis] * (block[axis] - 1), strides[axis])
        along = (torch.arange(block[axis]) * dilations[axis])[:, None] + starts
        shape = [1] * 2 * rank
        shape[axis], shape[rank + axis] = along.shape
        places = places * size[axis] + along.reshape(shape)
    return places.flatten()


OPERATORS: dict[str, Operator] = {
    "Col2Im": Operator(col2im, static=(1, 2)),
    "Conv": Operator(conv),
    "ConvTranspose": Operator(conv_transpose),
    "DeformConv": Operator(deform_conv),
}
