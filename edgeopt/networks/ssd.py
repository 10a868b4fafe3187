"""Single-shot detectors for small images: SSD (Liu et al., arXiv 1512.02325) and its light form, SSDLite.

A body of stages, each at half the size of the one before; a convolution reads the classes and boxes of each place of
the last `maps` stages. With `lite` convolutions are depthwise-separable, in the body (MobileNet, arXiv 1704.04861) and
in the heads (SSDLite, arXiv 1801.04381, section 6.2); without, they are 3x3 over all channels, as in SSD's VGG. Unlike
torchvision's `models.detection.ssd`, one convolution gives classes and boxes together, and the graph ends there:
anchors and non-maximum suppression are metadata (`edgeopt.model.anchors`). ReLU only, and BatchNormalization after
every convolution but the last: integer kernels exist for all of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from edgeopt.errors import UsageError
from edgeopt.networks.layers import check_positive, conv_norm, initialize
from edgeopt.networks.separable import block as separable_block

__all__ = ["Ssd", "ssd"]

RATIOS = (2.0,)
"""Aspect ratios of anchors besides 1, on every map."""
PER_PLACE = 2 + 2 * len(RATIOS)
BOX_VALUES = 4
SMALLEST, LARGEST = 0.2, 0.9
"""Sizes of the anchors on the finest and the coarsest map, fractions of the image: SSD's own."""
NOTHING = 0.99
"""Probability of "nothing" at first: most anchors see none, and would drown the rest (focal loss, arXiv 1708.02002,
section 3.3)."""


def dense_block(inside: int, outside: int, stride: int) -> nn.Sequential:
    """A 3x3 convolution over all channels."""
    return nn.Sequential(conv_norm(inside, outside, 3, stride), nn.ReLU())


class Ssd(nn.Module):
    """See `ssd`."""

    def __init__(
        self, classes: int, channels: int, size: int, width: int, blocks: Sequence[int], maps: int, lite: bool
    ) -> None:
        super().__init__()
        self.input_shape = (channels, size, size)
        block = separable_block if lite else dense_block
        widths = [width * 2**stage for stage in range(len(blocks) + 1)]
        self.stem = nn.Sequential(conv_norm(channels, width, 3, 2), nn.ReLU())
        self.stages = nn.ModuleList(
            nn.Sequential(block(a, b, 2), *(block(b, b, 1) for _ in range(count - 1)))
            for (a, b), count in zip(pairwise(widths), blocks, strict=True)
        )
        self.values = 1 + classes + BOX_VALUES
        self.maps = maps
        self.heads = nn.ModuleList(_head(b, PER_PLACE * self.values, lite) for b in widths[-maps:])
        self.anchors = _anchors(size, len(blocks), maps)
        initialize(self)
        for head in self.heads:
            _start_with_nothing(head, classes)

    def forward(self, x: Tensor) -> Tensor:
        """[n, channels, size, size] -> [n, anchors, 1 + classes + 4]."""
        x = self.stem(x)
        features = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        read = [head(x) for head, x in zip(self.heads, features[-self.maps :], strict=True)]
        return torch.cat([self._by_anchor(y) for y in read], dim=1)

    def _by_anchor(self, y: Tensor) -> Tensor:
        """[n, anchors * values, h, w] -> [n, h * w * anchors, values]; all but the batch are fixed numbers."""
        return y.permute(0, 2, 3, 1).reshape(-1, y.shape[2] * y.shape[3] * PER_PLACE, self.values)


def ssd(
    classes: int = 10,
    channels: int = 3,
    size: int = 96,
    width: int = 16,
    blocks: Sequence[int] = (1, 2, 2, 1),
    maps: int = 3,
    lite: bool = True,
) -> Ssd:
    """A detector: stage i is `blocks[i]` blocks of `width * 2**(i + 1)` channels at 1 / 2**(i + 2) of the size.

    `size` is height and width of the input, pixels; boxes are read off the last `maps` stages, with four anchors at
    each place. `lite`: separable convolutions. Raises UsageError for settings below 1, or more maps than stages.
    """
    check_positive(classes=classes, channels=channels, size=size, width=width, maps=maps)
    check_positive(blocks=min(blocks, default=0))
    if maps > len(blocks):
        raise UsageError(f"{maps} maps of {len(blocks)} stages", fix="give more blocks or fewer maps")
    return Ssd(classes, channels, size, width, blocks, maps, lite)


def _head(inside: int, outside: int, lite: bool) -> nn.Sequential:
    """3x3 to `outside` channels; separable where `lite`."""
    if not lite:
        return nn.Sequential(nn.Conv2d(inside, outside, 3, padding=1))
    return nn.Sequential(conv_norm(inside, inside, 3, groups=inside), nn.ReLU(), nn.Conv2d(inside, outside, 1))


def _start_with_nothing(head: nn.Module, classes: int) -> None:
    """Small first outputs, with the probability NOTHING of no object."""
    last = head[-1]  # type: ignore[index]
    nn.init.normal_(last.weight, std=0.01)
    bias = torch.zeros(PER_PLACE, 1 + classes + BOX_VALUES)
    bias[:, 0] = math.log(classes * NOTHING / (1 - NOTHING))
    last.bias.data.copy_(bias.flatten())


def _anchors(size: int, stages: int, maps: int) -> dict[str, Any]:
    """Fields of `edgeopt.model.anchors.Anchors`."""
    sides = [-(-size // 2 ** (stage + 2)) for stage in range(stages)][-maps:]
    step = (LARGEST - SMALLEST) / maps
    return {
        "size": (size, size),
        "grids": tuple((side, side) for side in sides),
        "scales": tuple(round(SMALLEST + step * k, 4) for k in range(maps + 1)),
        "aspect_ratios": (RATIOS,) * maps,
    }
