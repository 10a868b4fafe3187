"""Networks that learn fast: wide 3x3 convolutions, most of them behind a max pooling, for small images.

The design of Page's ResNet-9 ("How to train your ResNet", 2018-2019) as Jordan tuned it ("94 % on CIFAR-10 in
3.29 Seconds on a Single GPU", arXiv 2404.00498): each stage narrows the image right after its first
convolution, so that nearly all arithmetic is in dense kernels of many channels. More accuracy per second of
training than a deep and narrow residual network: a teacher's network, or a server's.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from edgeopt.errors import UsageError
from edgeopt.networks.layers import check_positive, conv_norm, initialize

__all__ = ["Pooled", "pooled"]


class Stage(nn.Module):
    """A convolution and 2x2 max pooling, then `depth - 1` more convolutions; from three on with a shortcut."""

    def __init__(self, inside: int, outside: int, depth: int) -> None:
        super().__init__()
        self.enter = nn.Conv2d(inside, outside, 3, padding=1, bias=False)
        self.pool = nn.MaxPool2d(2)
        self.norm = nn.BatchNorm2d(outside)
        self.rest = nn.ModuleList(conv_norm(outside, outside, 3) for _ in range(depth - 1))

    def forward(self, x: Tensor) -> Tensor:
        """[n, inside, h, w] -> [n, outside, h / 2, w / 2]."""
        x = torch.relu(self.norm(self.pool(self.enter(x))))
        if not self.rest:
            return x
        *inner, last = self.rest
        y = x
        for layer in inner:
            y = torch.relu(layer(y))
        y = last(y)
        return torch.relu(y + x if inner else y)


class Pooled(nn.Module):
    """See `pooled`."""

    def __init__(self, classes: int, channels: int, size: int, stem: int, widths: Sequence[int], depths: Sequence[int]):
        super().__init__()
        self.input_shape = (channels, size, size)
        self.stem = conv_norm(channels, stem, 3)
        ways = zip(pairwise([stem, *widths]), depths, strict=True)
        self.stages = nn.Sequential(*[Stage(inside, outside, depth) for (inside, outside), depth in ways])
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(widths[-1], classes)
        initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        """[n, channels, size, size] -> logits [n, classes]."""
        x = self.stages(torch.relu(self.stem(x)))
        logits: Tensor = self.classifier(self.pool(x).flatten(1))
        return logits


def pooled(
    classes: int = 10,
    channels: int = 3,
    size: int = 32,
    stem: int = 32,
    widths: Sequence[int] = (64, 256, 256),
    depths: Sequence[int] = (2, 2, 2),
) -> Pooled:
    """A pooled network: stage i has `depths[i]` convolutions of `widths[i]` channels at 1 / 2**(i + 1) of the size.

    `size` is height and width of the input, pixels; `stem` the channels of the first convolution, at full size.
    Raises UsageError for settings below 1 or lists of different lengths.
    """
    if len(widths) != len(depths):
        raise UsageError(f"widths has {len(widths)} entries, depths {len(depths)}", fix="give both for each stage")
    check_positive(classes=classes, channels=channels, size=size, stem=stem)
    check_positive(widths=min(widths, default=0), depths=min(depths, default=0))
    return Pooled(classes, channels, size, stem, widths, depths)
