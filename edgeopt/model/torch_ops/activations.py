"""Activation functions: elementwise ones, and softmax with its kin."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

from edgeopt.model.torch_ops.operator import Operator

__all__ = ["OPERATORS"]

Tensor = torch.Tensor


def celu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    return F.celu(x, alpha)


def elu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    return F.elu(x, alpha)


def gelu(x: Tensor, *, approximate: str = "none") -> Tensor:
    return F.gelu(x, approximate=approximate)


def hard_sigmoid(x: Tensor, *, alpha: float = 0.2, beta: float = 0.5) -> Tensor:
    return torch.clamp(alpha * x + beta, 0, 1)


def leaky_relu(x: Tensor, *, alpha: float = 0.01) -> Tensor:
    return F.leaky_relu(x, alpha)


def prelu(x: Tensor, slope: Tensor) -> Tensor:
    """The slope broadcasts to x by ONNX's rules, so not by `F.prelu`'s."""
    return torch.where(x < 0, slope * x, x)


def selu(x: Tensor, *, alpha: float = 1.67326319217681884765625, gamma: float = 1.05070102214813232421875) -> Tensor:
    return gamma * torch.where(x > 0, x, alpha * torch.expm1(torch.clamp(x, max=0)))


def shrink(x: Tensor, *, bias: float = 0.0, lambd: float = 0.5) -> Tensor:
    zero = torch.zeros_like(x)
    return torch.where(x < -lambd, x + bias, torch.where(x > lambd, x - bias, zero)).to(x.dtype)


def swish(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    return x * torch.sigmoid(alpha * x)


def thresholded_relu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    return torch.where(x > alpha, x, torch.zeros_like(x))


def softmax(x: Tensor, *, axis: int | None = None, opset: int) -> Tensor:
    return _normalize(torch.softmax, x, axis, opset)


def log_softmax(x: Tensor, *, axis: int | None = None, opset: int) -> Tensor:
    return _normalize(torch.log_softmax, x, axis, opset)


def hardmax(x: Tensor, *, axis: int | None = None, opset: int) -> Tensor:
    return _normalize(_one_hot_of_argmax, x, axis, opset)


def _one_hot_of_argmax(x: Tensor, dim: int) -> Tensor:
    return torch.zeros_like(x).scatter(dim, x.argmax(dim, keepdim=True), 1)


def _normalize(function: Callable[[Tensor, int], Tensor], x: Tensor, axis: int | None, opset: int) -> Tensor:
    """Along one axis; before opset 13 over everything from `axis` on, which was 1 unless said."""
    if opset >= 13:
        return function(x, -1 if axis is None else axis)
    axis = (1 if axis is None else axis) % max(x.dim(), 1)
    return function(x.flatten(axis), axis).reshape(x.shape)


OPERATORS: dict[str, Operator] = {
    "Celu": Operator(celu),
    "Elu": Operator(elu),
    "Gelu": Operator(gelu),
    "HardSigmoid": Operator(hard_sigmoid),
    "HardSwish": Operator(F.hardswish),
    "Hardmax": Operator(hardmax, wants=("opset",)),
    "LeakyRelu": Operator(leaky_relu),
    "LogSoftmax": Operator(log_softmax, wants=("opset",)),
    "Mish": Operator(F.mish),
    "PRelu": Operator(prelu),
    "Relu": Operator(torch.relu),
    "Selu": Operator(selu),
    "Shrink": Operator(shrink),
    "Sigmoid": Operator(torch.sigmoid),
    "Softmax": Operator(softmax, wants=("opset",)),
    "Softplus": Operator(F.softplus),
    "Softsign": Operator(F.softsign),
    "Swish": Operator(swish),
    "Tanh": Operator(torch.tanh),
    "ThresholdedRelu": Operator(thresholded_relu),
}
