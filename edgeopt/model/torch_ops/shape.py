"""Shapes and views: nothing here computes with the numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F

from edgeopt.model.torch_ops.operator import Ints, Operator, Scalar, ints, scalar

__all__ = ["OPERATORS"]

Tensor = torch.Tensor


def shape(x: Tensor, *, start: int = 0, end: int | None = None) -> Tensor:
    """int64 on the CPU, wherever x is: shape arithmetic must not wait for an accelerator."""
    return torch.tensor(x.shape[start:end], dtype=torch.int64)


def size(x: Tensor) -> Tensor:
    return torch.tensor(x.numel(), dtype=torch.int64)


def reshape(x: Tensor, shape: Ints, *, allowzero: int = 0) -> Tensor:
    """0 copies the input's dimension unless `allowzero`."""
    wanted = ints(shape)
    if not allowzero:
        wanted = [x.shape[i] if n == 0 else n for i, n in enumerate(wanted)]
    return x.reshape(wanted)


def flatten(x: Tensor, *, axis: int = 1) -> Tensor:
    """Always a matrix: [everything before axis, the rest]."""
    axis = axis + x.dim() if axis < 0 else axis
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))


def transpose(x: Tensor, *, perm: Sequence[int] | None = None) -> Tensor:
    return x.permute(list(perm) if perm is not None else list(range(x.dim()))[::-1])


def squeeze(x: Tensor, axes: Ints | None = None) -> Tensor:
    return x.squeeze() if axes is None else x.squeeze(ints(axes))


def unsqueeze(x: Tensor, axes: Ints) -> Tensor:
    """The axes are those of the result."""
    wanted = ints(axes)
    rank = x.dim() + len(wanted)
    for axis in sorted(a % rank for a in wanted):
        x = x.unsqueeze(axis)
    return x


def expand(x: Tensor, shape: Ints) -> Tensor:
    """Broadcast in both directions: a 1 in `shape` keeps the input's dimension."""
    return x.expand(torch.broadcast_shapes(x.shape, ints(shape)))


def tile(x: Tensor, repeats: Ints) -> Tensor:
    return x.repeat(ints(repeats))


def concat(*tensors: Tensor, axis: int) -> Tensor:
    return torch.cat(tensors, axis)


def split(
    x: Tensor, split: Ints | None = None, *, axis: int = 0, num_outputs: int | None = None, outputs: int
) -> Tensor | tuple[Tensor, ...]:
    """Without sizes: equal parts, the last one smaller."""
    parts = ints(split) if split is not None else _equal_parts(x.shape[axis], num_outputs or outputs)
    pieces = torch.split(x, parts, axis)
    return pieces[0] if outputs == 1 else tuple(pieces)


def _equal_parts(total: int, count: int) -> list[int]:
    part = -(-total // count)
    return [max(min(part, total - i * part), 0) for i in range(count)]


def slice_(x: Tensor, starts: Ints, ends: Ints, axes: Ints | None = None, steps: Ints | None = None) -> Tensor:
    """A negative step runs backwards, which torch slices do not: the slice is taken forwards and flipped."""
    first, last = ints(starts), ints(ends)
    over = ints(axes) if axes is not None else list(range(len(first)))
    by = ints(steps) if steps is not None else [1] * len(first)
    for start, end, axis, step in zip(first, last, over, by, strict=True):
        taken = range(*slice(start, end if step > 0 or end >= -x.shape[axis] else None, step).indices(x.shape[axis]))
        x = _take(x, axis, taken)
    return x


def _take(x: Tensor, axis: int, taken: range) -> Tensor:
    if taken.step > 0:
        index: list[slice] = [slice(None)] * x.dim()
        index[axis] = slice(taken.start, max(taken.stop, taken.start), taken.step)
        return x[tuple(index)]
    if not taken:
        return x.narrow(axis, 0, 0)
    forwards = range(taken[-1], taken[0] + 1, -taken.step)
    return _take(x, axis, forwards).flip(axis)


def pad(
    x: Tensor,
    pads: Ints,
    constant_value: Scalar | None = None,
    axes: Ints | None = None,
    *,
    mode: str = "constant",
    value: float = 0.0,
) -> Tensor:
    """All modes on any axes; a negative number crops."""
    amounts = ints(pads)
    over = [a % x.dim() for a in ints(axes)] if axes is not None else list(range(x.dim()))
    sides = {axis: (amounts[i], amounts[len(over) + i]) for i, axis in enumerate(over)}
    if mode == "constant":
        fill = value if constant_value is None else scalar(constant_value)
        torch_order = [n for axis in reversed(range(x.dim())) for n in sides.get(axis, (0, 0))]
        return F.pad(x, torch_order, value=fill)
    for axis, (before, after) in sides.items():
        if before or after:
            x = x.index_select(axis, _pad_index(x.shape[axis], before, after, mode, x.device))
    return x


def _pad_index(size: int, before: int, after: int, mode: str, device: torch.device) -> Tensor:
    """Which element each place of the padded axis repeats."""
    index = torch.arange(-before, size + after, device=device)
    if mode == "edge":
        return index.clamp(0, size - 1)
    if mode == "wrap":
        return index % size
    period = max(2 * (size - 1), 1)
    index = index.abs() % period
    return torch.where(index < size, index, period - index)


def depth_to_space(x: Tensor, *, blocksize: int, mode: str = "DCR") -> Tensor:
    n, c, h, w = x.shape
    b = blocksize
    if mode == "DCR":
        y = x.reshape(n, b, b, c // b**2, h, w).permute(0, 3, 4, 1, 5, 2)
    else:
        y = x.reshape(n, c // b**2, b, b, h, w).permute(0, 1, 4, 2, 5, 3)
    return y.reshape(n, c // b**2, h * b, w * b)


def space_to_depth(x: Tensor, *, blocksize: int, mode: str = "DCR") -> Tensor:
    n, c, h, w = x.shape
    b = blocksize
    y = x.reshape(n, c, h // b, b, w // b, b)
    y = y.permute(0, 3, 5, 1, 2, 4) if mode == "DCR" else y.permute(0, 1, 3, 5, 2, 4)
    return y.reshape(n, c * b**2, h // b, w // b)


def identity(x: Tensor) -> Tensor:
    return x


def trilu(x: Tensor, k: Scalar | None = None, *, upper: int = 1) -> Tensor:
    diagonal = 0 if k is None else int(scalar(k))
    return torch.triu(x, diagonal) if upper else torch.tril(x, diagonal)


OPERATORS: dict[str, Operator] = {
    "Concat": Operator(concat),
    "DepthToSpace": Operator(depth_to_space),
    "Expand": Operator(expand, static=(1,)),
    "Flatten": Operator(flatten),
    "Identity": Operator(identity),
    "Pad": Operator(pad, static=(1, 2, 3)),
    "Reshape": Operator(reshape, static=(1,)),
    "Shape": Operator(shape),
    "Size": Operator(size),
    "Slice": Operator(slice_, static=(1, 2, 3, 4)),
    "SpaceToDepth": Operator(space_to_depth),
    "Split": Operator(split, static=(1,), wants=("outputs",)),
    "Squeeze": Operator(squeeze, static=(1,)),
    "Tile": Operator(tile, static=(1,)),
    "Transpose": Operator(transpose),
    "Trilu": Operator(trilu, static=(1,)),
    "Unsqueeze": Operator(unsqueeze, static=(1,)),
}
