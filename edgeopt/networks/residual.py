"""Residual networks for small images: He et al., "Deep Residual Learning" (arXiv 1512.03385), section 4.2.

`residual()` as it stands is ResNet8, the image-classification reference of MLPerf Tiny (arXiv 2106.07597):
77,360 convolution and dense weights, 12,501,632 MACs. `blocks=(3, 3, 3)` is He's ResNet-20 with projection
shortcuts. ReLU only, no bias before BatchNormalization and average pooling at the end: integer kernels
exist for all of it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from edgeopt.networks.layers import check_positive, conv_norm, initialize

__all__ = ["Residual", "residual"]


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut; the shortcut is projected (1x1) where the shape changes."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.first = conv_norm(inside, outside, 3, stride)
        self.second = conv_norm(outside, outside, 3)
        same = stride == 1 and inside == outside
        self.shortcut = nn.Identity() if same else conv_norm(inside, outside, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """[n, inside, h, w] -> [n, outside, h / stride, w / stride]."""
        y = self.second(torch.relu(self.first(x)))
        return torch.relu(y + self.shortcut(x))


class Residual(nn.Module):
    """See `residual`."""

    def __init__(self, classes: int, channels: int, size: int, width: int, blocks: Sequence[int]) -> None:
        super().__init__()
        self.input_shape = (channels, size, size)
        self.stem = conv_norm(channels, width, 3)
        layers: list[nn.Module] = []
        inside = width
        for stage, count in enumerate(blocks):
            for block in range(count):
                outside = width * 2**stage
                layers.append(Block(inside, outside, stride=2 if stage and not block else 1))
                inside = outside
        self.blocks = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(inside, classes)
        initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        """[n, channels, size, size] -> logits [n, classes]."""
        x = self.blocks(torch.relu(self.stem(x)))
        logits: Tensor = self.classifier(self.pool(x).flatten(1))
        return logits


def residual(
    classes: int = 10,
    channels: int = 3,
    size: int = 32,
    width: int = 16,
    blocks: Sequence[int] = (1, 1, 1),
) -> Residual:
    """A residual network: stage i is `blocks[i]` blocks of `width * 2**i` channels at 1 / 2**i of the size.

    `size` is height and width of the input, pixels. Raises UsageError for settings below 1.
    """
    check_positive(classes=classes, channels=channels, size=size, width=width, blocks=min(blocks, default=0))
    return Residual(classes, channels, size, width, blocks)
