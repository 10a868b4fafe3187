"""BatchNormalization over several processes: statistics of the whole batch, of which each has a part.

Torch's SyncBatchNorm does this on GPUs alone. Here it is two sums over all processes, forward and backward, so that
training on several devices gives what one device gives.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, distributed

__all__ = ["batch_norm_of_all", "processes", "shared_statistics"]

_processes = 1


@contextmanager
def shared_statistics(count: int) -> Iterator[None]:
    """Inside, BatchNormalization that trains takes its statistics over all `count` processes; 1: each its own."""
    global _processes
    before, _processes = _processes, count
    try:
        yield
    finally:
        _processes = before


def processes() -> int:
    """How many share their statistics now."""
    return _processes


class _SumOfAll(torch.autograd.Function):
    """The sum of a tensor over all processes; what each does with it comes back to all."""

    @staticmethod
    def forward(ctx: Any, own: Tensor) -> Tensor:
        return _sum(own)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return _sum(gradients[0])


def _sum(own: Tensor) -> Tensor:
    total = own.clone(memory_format=torch.contiguous_format)
    distributed.all_reduce(total)
    return total


def batch_norm_of_all(
    x: Tensor, mean: Tensor, variance: Tensor, scale: Tensor, bias: Tensor, momentum: float, epsilon: float
) -> Tensor:
    """`F.batch_norm` in training, in fp32, over the batches [n, channels, ...] of all processes, which are as long.

    `mean` and `variance` (unbiased) move in place by `momentum`.
    """
    axes, shape = [0, *range(2, x.dim())], [1, -1, *[1] * (x.dim() - 2)]
    wide = x.float()
    count = wide.numel() // wide.shape[1] * _processes
    batch_mean: Tensor = _SumOfAll.apply(wide.sum(axes)) / count
    centred = wide - batch_mean.view(shape)
    batch_variance: Tensor = _SumOfAll.apply(centred.square().sum(axes)) / count
    with torch.no_grad():
        mean.lerp_(batch_mean.to(mean.dtype), momentum)
        variance.lerp_((batch_variance * (count / max(count - 1, 1))).to(variance.dtype), momentum)
    gain = torch.rsqrt(batch_variance + epsilon) * scale
    return (centred * gain.view(shape) + bias.view(shape)).to(x.dtype)
