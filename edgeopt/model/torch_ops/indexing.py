"""Picking and placing elements by index. Negative indices count from the end."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from edgeopt.model.torch_ops.operator import Operator, Scalar, scalar

__all__ = ["OPERATORS"]

Tensor = torch.Tensor

_REDUCTIONS = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


def gather(x: Tensor, indices: Tensor, *, axis: int = 0) -> Tensor:
    """Indices of any shape replace the axis."""
    axis = axis % x.dim()
    flat = _from_start(indices.reshape(-1), x.shape[axis], x.device)
    shape = [*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]]
    return x.index_select(axis, flat).reshape(shape)


def gather_elements(x: Tensor, indices: Tensor, *, axis: int = 0) -> Tensor:
    return torch.gather(x, axis, _from_start(indices, x.shape[axis], x.device))


def gather_nd(x: Tensor, indices: Tensor, *, batch_dims: int = 0) -> Tensor:
    """The last axis of `indices` addresses x's axes after the `batch_dims` that both share."""
    depth = indices.shape[-1]
    batch = math.prod(x.shape[:batch_dims])
    rows = x.reshape(batch, math.prod(x.shape[batch_dims : batch_dims + depth]), -1)
    flat = _flat_index(indices, x.shape[batch_dims : batch_dims + depth]).reshape(batch, -1, 1)
    picked = torch.gather(rows, 1, flat.expand(-1, -1, rows.shape[2]))
    return picked.reshape([*indices.shape[:-1], *x.shape[batch_dims + depth :]])


def scatter_elements(x: Tensor, indices: Tensor, updates: Tensor, *, axis: int = 0, reduction: str = "none") -> Tensor:
    return _scatter(x, axis, _from_start(indices, x.shape[axis], x.device), updates, reduction)


def scatter_nd(x: Tensor, indices: Tensor, updates: Tensor, *, reduction: str = "none") -> Tensor:
    """The last axis of `indices` addresses x's first axes; `updates` fill the rest."""
    depth = indices.shape[-1]
    rows = x.reshape(math.prod(x.shape[:depth]), -1)
    flat = _flat_index(indices, x.shape[:depth]).reshape(-1, 1).expand(-1, rows.shape[1])
    return _scatter(rows, 0, flat, updates.reshape(flat.shape), reduction).reshape(x.shape)


def _scatter(x: Tensor, axis: int, indices: Tensor, updates: Tensor, reduction: str) -> Tensor:
    updates = updates.to(x.dtype)
    if reduction == "none":
        return x.scatter(axis, indices, updates)
    return x.scatter_reduce(axis, indices, updates, _REDUCTIONS[reduction])


def _from_start(indices: Tensor, size: int, device: torch.device) -> Tensor:
    indices = indices.to(device=device, dtype=torch.int64)
    return torch.where(indices < 0, indices + size, indices)


def _flat_index(indices: Tensor, shape: Sequence[int]) -> Tensor:
    """[..., k] coordinates in `shape` -> [...] row-major positions."""
    flat = torch.zeros(indices.shape[:-1], dtype=torch.int64, device=indices.device)
    for axis, size in enumerate(shape):
        flat = flat * size + _from_start(indices[..., axis], size, indices.device)
    return flat


def compress(x: Tensor, condition: Tensor, *, axis: int | None = None) -> Tensor:
    x, over = (x.reshape(-1), 0) if axis is None else (x, axis)
    return x.index_select(over, condition.nonzero()[:, 0].to(x.device))


def non_zero(x: Tensor) -> Tensor:
    return x.nonzero().t()


def one_hot(indices: Tensor, depth: Scalar, values: Tensor, *, axis: int = -1) -> Tensor:
    """`values` is [off, on]; an index outside of [-depth, depth) is off everywhere."""
    size = int(scalar(depth))
    indices = indices.to(torch.int64)
    indices = torch.where(indices < 0, indices + size, indices)
    axis = axis % (indices.dim() + 1)
    places = torch.arange(size, device=indices.device).reshape(-1, *[1] * (indices.dim() - axis))
    return torch.where(indices.unsqueeze(axis) == places, values[1], values[0])


def top_k(x: Tensor, k: Scalar, *, axis: int = -1, largest: int = 1, sorted: int = 1) -> tuple[Tensor, Tensor]:
    """Of equal values the lower index comes first."""
    values, indices = torch.sort(x, dim=axis, descending=bool(largest), stable=True)
    count = int(scalar(k))
    return values.narrow(axis, 0, count), indices.narrow(axis, 0, count)


OPERATORS: dict[str, Operator] = {
    "Compress": Operator(compress),
    "Gather": Operator(gather),
    "GatherElements": Operator(gather_elements),
    "GatherND": Operator(gather_nd),
    "NonZero": Operator(non_zero),
    "OneHot": Operator(one_hot, static=(1,)),
    "Scatter": Operator(scatter_elements),
    "ScatterElements": Operator(scatter_elements),
    "ScatterND": Operator(scatter_nd),
    "TopK": Operator(top_k, static=(1,)),
}
