"""Reductions over axes, which are an attribute in old opsets and an input in new ones."""

from __future__ import annotations

from collections.abc import Callable

import torch

from edgeopt.model.torch_ops.operator import Ints, Operator, Scalar, ints, scalar, wide

__all__ = ["OPERATORS"]

Tensor = torch.Tensor


def _reduce(
    function: Callable[[Tensor, list[int], bool], Tensor], x: Tensor, axes: Ints | None, keepdims: int, noop: int
) -> Tensor:
    """No axes means all of them; with `noop`, each element alone is what is reduced."""
    over = ints(axes) if axes is not None else []
    if not over and noop:
        return function(x.unsqueeze(0), [0], False)
    return wide(lambda t: function(t, over or list(range(t.dim())), bool(keepdims)), x)


def reduce_sum(x: Tensor, axes: Ints | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Tensor:
    return _reduce(_sum, x, axes, keepdims, noop_with_empty_axes)


def reduce_mean(x: Tensor, axes: Ints | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Tensor:
    return _reduce(torch.mean, x, axes, keepdims, noop_with_empty_axes)


def reduce_max(x: Tensor, axes: Ints | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Tensor:
    return _reduce(_max, x, axes, keepdims, noop_with_empty_axes)


def reduce_min(x: Tensor, axes: Ints | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Tensor:
    return _reduce(_min, x, axes, keepdims, noop_with_empty_axes)


def reduce_prod(x: Tensor, axes: Ints | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Tensor:
    return _reduce(_prod, x, axes, keepdims, noop_with_empty_axes)


def reduce_l1(x: Tensor, axes: Ints | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Tensor:
    return _reduce(lambda t, a, k: _sum(t.abs(), a, k), x, axes, keepdims, noop_with_empty_axes)


def reduce_l2(x: Tensor, axes: Ints | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Tensor:
    return _reduce(_l2, x, axes, keepdims, noop_with_empty_axes)


def reduce_sum_square(
    x: Tensor, axes: Ints | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0
) -> Tensor:
    return _reduce(lambda t, a, k: _sum(t.square(), a, k), x, axes, keepdims, noop_with_empty_axes)


def reduce_log_sum(x: Tensor, axes: Ints | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Tensor:
    return _reduce(lambda t, a, k: _sum(t, a, k).log(), x, axes, keepdims, noop_with_empty_axes)


def reduce_log_sum_exp(
    x: Tensor, axes: Ints | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0
) -> Tensor:
    return _reduce(torch.logsumexp, x, axes, keepdims, noop_with_empty_axes)


def arg_max(x: Tensor, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Tensor:
    return _arg(torch.argmax, x, axis, keepdims, select_last_index)


def arg_min(x: Tensor, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Tensor:
    return _arg(torch.argmin, x, axis, keepdims, select_last_index)


def cum_sum(x: Tensor, axis: Scalar, *, exclusive: int = 0, reverse: int = 0) -> Tensor:
    return _cumulate(torch.cumsum, 0, x, axis, exclusive, reverse)


def cum_prod(x: Tensor, axis: Scalar, *, exclusive: int = 0, reverse: int = 0) -> Tensor:
    return _cumulate(torch.cumprod, 1, x, axis, exclusive, reverse)


def _sum(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return x.sum(axes, keep, dtype=x.dtype)


def _max(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return _or_limit(torch.amax, x, axes, keep, lowest=True)


def _min(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return _or_limit(torch.amin, x, axes, keep, lowest=False)


def _or_limit(
    function: Callable[[Tensor, list[int], bool], Tensor], x: Tensor, axes: list[int], keep: bool, *, lowest: bool
) -> Tensor:
    """torch refuses to take the extremum of nothing; ONNX gives the type's own limit."""
    if x.numel():
        return function(x, axes, keep)
    if x.dtype == torch.bool:
        limit: float = not lowest
    elif x.is_floating_point():
        limit = -float("inf") if lowest else float("inf")
    else:
        limit = torch.iinfo(x.dtype).min if lowest else torch.iinfo(x.dtype).max
    return torch.full_like(_sum(x, axes, keep), limit)


def _prod(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    for axis in sorted((a % max(x.dim(), 1) for a in axes), reverse=True):
        x = x.prod(axis, keepdim=keep, dtype=x.dtype)
    return x


def _l2(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    if not x.is_floating_point():
        return x.double().square().sum(axes, keep).sqrt().to(x.dtype)
    norm: Tensor = torch.linalg.vector_norm(x, 2, axes, keep)
    return norm


def _arg(function: Callable[..., Tensor], x: Tensor, axis: int, keepdims: int, last: int) -> Tensor:
    """torch gives the first of equals; the last one is the first of the flipped axis."""
    if not last:
        first: Tensor = function(x, axis, bool(keepdims))
        return first
    from_the_end: Tensor = function(x.flip(axis), axis, bool(keepdims))
    return x.shape[axis] - 1 - from_the_end


def _cumulate(
    function: Callable[..., Tensor], start: int, x: Tensor, axis: Scalar, exclusive: int, reverse: int
) -> Tensor:
    """`exclusive`: each element stays out of its own result, which begins with `start`."""
    over = int(scalar(axis))
    x = x.flip(over) if reverse else x
    if exclusive:
        first = torch.full_like(x.narrow(over, 0, 1), start)
        x = torch.cat([first, x.narrow(over, 0, x.shape[over] - 1)], over)
    y: Tensor = function(x, over, dtype=x.dtype)
    return y.flip(over) if reverse else y


OPERATORS: dict[str, Operator] = {
    "ArgMax": Operator(arg_max),
    "ArgMin": Operator(arg_min),
    "CumProd": Operator(cum_prod, static=(1,)),
    "CumSum": Operator(cum_sum, static=(1,)),
    "ReduceL1": Operator(reduce_l1, static=(1,)),
    "ReduceL2": Operator(reduce_l2, static=(1,)),
    "ReduceLogSum": Operator(reduce_log_sum, static=(1,)),
    "ReduceLogSumExp": Operator(reduce_log_sum_exp, static=(1,)),
    "ReduceMax": Operator(reduce_max, static=(1,)),
    "ReduceMean": Operator(reduce_mean, static=(1,)),
    "ReduceMin": Operator(reduce_min, static=(1,)),
    "ReduceProd": Operator(reduce_prod, static=(1,)),
    "ReduceSum": Operator(reduce_sum, static=(1,)),
    "ReduceSumSquare": Operator(reduce_sum_square, static=(1,)),
}
