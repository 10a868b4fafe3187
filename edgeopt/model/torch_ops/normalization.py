"""Normalizations. BatchNormalization trains as torch's does: batch statistics, running buffers updated."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from edgeopt.model.torch_ops.operator import Operator
from edgeopt.model.torch_ops.shared import batch_norm_of_all, processes

__all__ = ["OPERATORS"]

Tensor = torch.Tensor


def batch_normalization(
    x: Tensor,
    scale: Tensor,
    bias: Tensor,
    mean: Tensor,
    variance: Tensor,
    *,
    epsilon: float = 1e-5,
    momentum: float = 0.9,
    training_mode: int = 0,
    training: bool,
    stored: Sequence[bool] = (True,) * 5,
    outputs: int = 1,
) -> Tensor | tuple[Tensor, Tensor, Tensor]:
    """Inference form: while `training`, batch statistics normalize and `mean` and `variance` (unbiased, as
    torch has it) move in place by 1 - momentum. Statistics that the graph computes (of a weight that it standardizes)
    are no running ones: they normalize as they are, and gradients flow through them. A node written with
    training_mode=1 does as ONNX says instead: batch statistics always, running ones (biased variance) returned and not
    kept."""
    if not training_mode and not all(stored[3:]):
        along = [1, -1, *[1] * (x.dim() - 2)]
        gain = scale * torch.rsqrt(variance + epsilon)
        return (x - mean.reshape(along)) * gain.reshape(along) + bias.reshape(along)
    if not training_mode and training and processes() > 1:
        return batch_norm_of_all(x, mean, variance, scale, bias, 1 - momentum, epsilon)
    if not training_mode:
        return F.batch_norm(x, mean, variance, scale, bias, training, 1 - momentum, epsilon)
    axes = [0, *range(2, x.dim())]
    batch_mean = x.mean(axes)
    batch_variance = x.var(axes, correction=0)
    y = F.batch_norm(x, batch_mean, batch_variance, scale, bias, False, 0.0, epsilon)
    if outputs == 1:
        return y
    running = momentum * mean + (1 - momentum) * batch_mean
    return y, running, momentum * variance + (1 - momentum) * batch_variance


def layer_normalization(
    x: Tensor,
    scale: Tensor,
    bias: Tensor | None = None,
    *,
    axis: int = -1,
    epsilon: float = 1e-5,
    stash_type: int = 1,
    outputs: int = 1,
) -> Tensor | tuple[Tensor, ...]:
    """Over the axes from `axis` on; further outputs are the mean and 1 / standard deviation."""
    axis = axis % x.dim()
    shape = x.shape[axis:]
    if outputs == 1 and scale.shape == shape and (bias is None or bias.shape == shape):
        return F.layer_norm(x, shape, scale, bias, epsilon)
    axes = list(range(axis, x.dim()))
    mean = x.mean(axes, keepdim=True)
    inverse = torch.rsqrt((x - mean).square().mean(axes, keepdim=True) + epsilon)
    y = (x - mean) * inverse * scale
    y = y if bias is None else y + bias
    return y if outputs == 1 else (y, mean, inverse)[:outputs]


def instance_normalization(x: Tensor, scale: Tensor, bias: Tensor, *, epsilon: float = 1e-5) -> Tensor:
    return F.instance_norm(x, None, None, scale, bias, True, 0.0, epsilon)


def group_normalization(
    x: Tensor,
    scale: Tensor,
    bias: Tensor,
    *,
    num_groups: int,
    epsilon: float = 1e-5,
    stash_type: int = 1,
    opset: int,
) -> Tensor:
    """Scale and bias are per channel; per group in opsets 18 to 20."""
    if opset < 21:
        repeat = x.shape[1] // num_groups
        scale, bias = scale.repeat_interleave(repeat), bias.repeat_interleave(repeat)
    return F.group_norm(x, num_groups, scale, bias, epsilon)


def rms_normalization(
    x: Tensor, scale: Tensor, *, axis: int = -1, epsilon: float = 1e-5, stash_type: int = 1
) -> Tensor:
    axes = list(range(axis % x.dim(), x.dim()))
    wide = x.float() if stash_type == 1 and x.dtype != torch.float64 else x
    y = wide * torch.rsqrt(wide.square().mean(axes, keepdim=True) + epsilon)
    return y.to(x.dtype) * scale


def local_response_normalization(
    x: Tensor, *, size: int, alpha: float = 1e-4, beta: float = 0.75, bias: float = 1.0
) -> Tensor:
    """Across `size` neighbouring channels; an even window reaches one further up, unlike torch's."""
    below = (size - 1) // 2
    squares = F.pad(x.square(), [0, 0] * (x.dim() - 2) + [below, size - 1 - below])
    sums = squares.unfold(1, size, 1).sum(-1)
    return x / (bias + alpha / size * sums) ** beta


def lp_normalization(x: Tensor, *, axis: int = -1, p: int = 2) -> Tensor:
    """0 where the norm is 0."""
    norm = torch.linalg.vector_norm(x, p, axis, keepdim=True)
    return torch.where(norm == 0, torch.zeros_like(x), x / norm)


def mean_variance_normalization(x: Tensor, *, axes: list[int] | None = None) -> Tensor:
    axes = list(axes) if axes is not None else [0, 2, 3]
    mean = x.mean(axes, keepdim=True)
    return (x - mean) / (((x - mean).square().mean(axes, keepdim=True)).sqrt() + 1e-9)


def dropout(
    x: Tensor,
    ratio: Tensor | float | None = None,
    training_mode: Tensor | bool | None = None,
    *,
    seed: int | None = None,
    training: bool,
    outputs: int = 1,
) -> Tensor | tuple[Tensor, Tensor]:
    """Drops while `training`, or always when the node's own training_mode says so."""
    rate = 0.5 if ratio is None else float(ratio)
    active = training or (training_mode is not None and bool(training_mode))
    if outputs == 1:
        return F.dropout(x, rate, active)
    keep = torch.rand_like(x) >= rate if active else torch.ones_like(x, dtype=torch.bool)
    return (x * keep / (1 - rate) if active and rate < 1 else x * keep), keep


OPERATORS: dict[str, Operator] = {
    "BatchNormalization": Operator(batch_normalization, wants=("training", "outputs", "stored")),
    "Dropout": Operator(dropout, static=(1, 2), wants=("training", "outputs")),
    "GroupNormalization": Operator(group_normalization, wants=("opset",)),
    "InstanceNormalization": Operator(instance_normalization),
    "LRN": Operator(local_response_normalization),
    "LayerNormalization": Operator(layer_normalization, wants=("outputs",)),
    "LpNormalization": Operator(lp_normalization),
    "MeanVarianceNormalization": Operator(mean_variance_normalization),
    "RMSNormalization": Operator(rms_normalization),
}
