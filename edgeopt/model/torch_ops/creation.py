"""Tensors that come from shapes and numbers alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from edgeopt.model.torch_ops.dtypes import torch_dtype
from edgeopt.model.torch_ops.operator import Ints, Operator, ints, scalar

__all__ = ["OPERATORS", "host_tensor", "to_device"]

Tensor = torch.Tensor


def host_tensor(numbers: Sequence[float] | float, dtype: torch.dtype) -> Tensor:
    """A constant of shape arithmetic, on the CPU."""
    return torch.tensor(numbers, dtype=dtype)


def to_device(x: Tensor, anchor: Tensor) -> Tensor:
    """Bring the result of shape arithmetic to where `anchor` is."""
    return x.to(anchor.device)


def constant_of_shape(shape: Ints, *, value: Tensor | None = None) -> Tensor:
    wanted = ints(shape)
    return torch.zeros(wanted) if value is None else value.reshape(()).expand(wanted).clone()


def arange(start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
    return torch.arange(scalar(start), scalar(limit), scalar(delta), dtype=start.dtype, device=start.device)


def constant(
    *,
    value: Tensor | None = None,
    value_float: float | None = None,
    value_floats: Sequence[float] | None = None,
    value_int: int | None = None,
    value_ints: Sequence[int] | None = None,
) -> Tensor:
    if value is not None:
        return value
    if value_float is not None or value_floats is not None:
        return torch.tensor(value_float if value_floats is None else value_floats, dtype=torch.float32)
    return torch.tensor(value_int if value_ints is None else value_ints, dtype=torch.int64)


def eye_like(x: Tensor, *, dtype: int | None = None, k: int = 0) -> Tensor:
    """Ones on the k-th diagonal of a matrix with x's shape; k > 0 is above the main one."""
    ones = torch.ones(x.shape, device=x.device, dtype=torch_dtype(dtype) or x.dtype)
    return torch.triu(torch.tril(ones, k), k)


OPERATORS: dict[str, Operator] = {
    "Constant": Operator(constant),
    "ConstantOfShape": Operator(constant_of_shape, static=(0,)),
    "EyeLike": Operator(eye_like),
    "Range": Operator(arange),
}
