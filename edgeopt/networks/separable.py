"""Depthwise-separable networks: MobileNetV1 (arXiv 1704.04861) and DS-CNN (arXiv 1711.07128).

Howard et al. give the first, Zhang et al. the second, whose small form is MLPerf Tiny's keyword spotter:

    separable(1000, size=224, width=64, blocks=(1, 2, 2, 6, 2), stem=32, stem_stride=2)
    separable(12, 1, size=(49, 10), width=64, blocks=(4,), stem_kernel=(10, 4), stem_stride=2)

569 M and 2.66 M MACs. ReLU only, no bias before BatchNormalization and average pooling at the end: integer
kernels exist for all of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from edgeopt.networks.layers import check_positive, conv_norm, initialize

__all__ = ["Separable", "separable"]


def block(inside: int, outside: int, stride: int) -> nn.Sequential:
    """A 3x3 convolution of each channel by itself, then a 1x1 convolution over the channels."""
    return nn.Sequential(
        conv_norm(inside, inside, 3, stride, groups=inside),
        nn.ReLU(),
        conv_norm(inside, outside, 1),
        nn.ReLU(),
    )


class Separable(nn.Module):
    """See `separable`."""

    def __init__(
        self, classes: int, input_shape: tuple[int, int, int], stem: nn.Module, body: nn.Module, out: int
    ) -> None:
        super().__init__()
        self.input_shape = input_shape
        self.stem = nn.Sequential(stem, nn.ReLU())
        self.blocks = body
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(out, classes)
        initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        """[n, channels, height, width] -> logits [n, classes]."""
        logits: Tensor = self.classifier(self.pool(self.blocks(self.stem(x))).flatten(1))
        return logits


def separable(
    classes: int = 10,
    channels: int = 3,
    size: int | Sequence[int] = 32,
    width: int = 32,
    blocks: Sequence[int] = (1, 2, 2),
    stem: int | None = None,
    stem_kernel: Sequence[int] = (3, 3),
    stem_stride: int = 1,
) -> Separable:
    """A separable network: stage i is `blocks[i]` blocks of `width * 2**i` channels, each at half the size.

    `size` is the input's side, or its height and width, pixels; `stem` is the channel count of the first
    (dense) convolution, `width` when not given. Raises UsageError for settings below 1.
    """
    height, breadth = (size, size) if isinstance(size, int) else size
    first = width if stem is None else stem
    check_positive(classes=classes, channels=channels, size=min(height, breadth), width=width, stem=first)
    check_positive(blocks=min(blocks, default=0), stem_kernel=min(stem_kernel), stem_stride=stem_stride)
    padding = [_padding(n, k, stem_stride) for n, k in zip((height, breadth), stem_kernel, strict=True)]
    stem_layer = conv_norm(channels, first, tuple(stem_kernel), stem_stride, padding=tuple(padding))
    widths = [first] + [width * 2**stage for stage, count in enumerate(blocks) for _ in range(count)]
    strides = [2 if stage and not i else 1 for stage, count in enumerate(blocks) for i in range(count)]
    body = [block(a, b, stride) for (a, b), stride in zip(pairwise(widths), strides, strict=True)]
    return Separable(classes, (channels, height, breadth), stem_layer, nn.Sequential(*body), widths[-1])


def _padding(size: int, kernel: int, stride: int) -> int:
    """Padding on either side that gives ceil(size / stride) outputs."""
    outputs = -(-size // stride)
    return max(0, -(-((outputs - 1) * stride + kernel - size) // 2))
