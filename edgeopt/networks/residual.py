"""Residual networks for small images: He et al., "Deep Residual Learning" (arXiv 1512.03385), section 4.2.

`residual()` as it stands is ResNet8, the image-classification reference of MLPerf Tiny (arXiv 2106.07597):
77,360 convolution and dense weights, 12,501,632 MACs. `blocks=(3, 3, 3)` is He's ResNet-20 with projection
shortcuts. ReLU only, no bias before BatchNormalization and average pooling at the end: integer kernels
exist for all of it.

`blocks=(0, 3, 1), widths=(16, 32, 48)` spends what a file of 100 KB and 20 M MACs allow better than ResNet8: 88,208
weights and 15,860,192 MACs. A weight at a quarter of the pixels is used 256 times, at full size 1,024 times and at the
end 64 times; ResNet8 has three quarters of its weights at the end and a third of its arithmetic at full size.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from edgeopt.errors import UsageError
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

    def __init__(self, classes: int, channels: int, size: int, widths: Sequence[int], blocks: Sequence[int]) -> None:
        super().__init__()
        self.input_shape = (channels, size, size)
        self.stem = conv_norm(channels, widths[0], 3)
        layers: list[nn.Module] = []
        inside = widths[0]
        for stage, (outside, count) in enumerate(zip(widths, blocks, strict=True)):
            for block in range(count):
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
    widths: Sequence[int] | None = None,
) -> Residual:
    """A residual network: stage i is `blocks[i]` blocks of `width * 2**i` channels at 1 / 2**i of the size.

    `size` is height and width of the input, pixels. `widths` gives the channels of each stage one by one instead. The
    first stage may have no blocks: then it is the stem alone. Raises UsageError for other settings below 1, and where
    `widths` and `blocks` differ in length.
    """
    least = [blocks[0] + (len(blocks) > 1), *blocks[1:]] if blocks else [0]
    check_positive(classes=classes, channels=channels, size=size, width=width, blocks=min(least))
    channels_of = [width * 2**stage for stage in range(len(blocks))] if widths is None else list(widths)
    if len(channels_of) != len(blocks):
        raise UsageError(f"widths has {len(channels_of)} entries, blocks {len(blocks)}", fix="give both for each stage")
    check_positive(widths=min(channels_of))
    return Residual(classes, channels, size, channels_of, blocks)
