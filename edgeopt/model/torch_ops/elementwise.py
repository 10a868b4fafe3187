"""Elementwise arithmetic, comparison, logic and casts (numpy-style broadcasting, as torch has it)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce

import torch

from edgeopt.model.torch_ops.dtypes import cast
from edgeopt.model.torch_ops.operator import Operator, Scalar, wide

__all__ = ["OPERATORS"]

Tensor = torch.Tensor


def add(a: Tensor, b: Tensor) -> Tensor:
    return wide(torch.add, a, b)


def sub(a: Tensor, b: Tensor) -> Tensor:
    return wide(torch.sub, a, b)


def mul(a: Tensor, b: Tensor) -> Tensor:
    return wide(torch.mul, a, b)


def div(a: Tensor, b: Tensor) -> Tensor:
    """Integers truncate towards zero."""
    if a.is_floating_point() or b.is_floating_point():
        return torch.div(a, b)
    return wide(lambda x, y: torch.div(x, y, rounding_mode="trunc"), a, b)


def mod(a: Tensor, b: Tensor, *, fmod: int = 0) -> Tensor:
    """`fmod=0`: the sign of the divisor, as Python's %; `fmod=1`: of the dividend, as C's fmod."""
    return wide(torch.fmod if fmod else torch.remainder, a, b)


def power(a: Tensor, b: Tensor) -> Tensor:
    """The result has the base's type."""
    if a.is_floating_point() or not b.is_floating_point():
        b = b.to(a.dtype) if a.dtype != b.dtype and b.dim() else b
        return wide(torch.pow, a, b).to(a.dtype)
    return torch.pow(a.to(b.dtype), b).to(a.dtype)


def neg(x: Tensor) -> Tensor:
    return torch.neg(x)


def absolute(x: Tensor) -> Tensor:
    return wide(torch.abs, x)


def sign(x: Tensor) -> Tensor:
    return wide(torch.sign, x)


def clip(x: Tensor, min: Scalar | None = None, max: Scalar | None = None) -> Tensor:
    """A lower bound above the upper one gives the upper one, as in ONNX (and numpy, and torch)."""
    low, high = _bound(min), _bound(max)
    if low is None and high is None:
        return x
    if isinstance(low, Tensor) or isinstance(high, Tensor):
        x = x if low is None else torch.maximum(x, _like(low, x))
        return x if high is None else torch.minimum(x, _like(high, x))
    return torch.clamp(x, low, high)


def _bound(value: Scalar | None) -> float | Tensor | None:
    if isinstance(value, list | tuple):
        return float(value[0]) if isinstance(value[0], float) else int(value[0])
    return value  # type: ignore[return-value]


def _like(value: float | Tensor, x: Tensor) -> Tensor:
    return torch.as_tensor(value, dtype=x.dtype, device=x.device)


def fold(function: Callable[[Tensor, Tensor], Tensor], tensors: tuple[Tensor, ...]) -> Tensor:
    return reduce(lambda a, b: wide(function, a, b), tensors)


def maximum(*tensors: Tensor) -> Tensor:
    return fold(torch.maximum, tensors)


def minimum(*tensors: Tensor) -> Tensor:
    return fold(torch.minimum, tensors)


def total(*tensors: Tensor) -> Tensor:
    return fold(torch.add, tensors)


def mean(*tensors: Tensor) -> Tensor:
    return total(*tensors) / len(tensors)


def equal(a: Tensor, b: Tensor) -> Tensor:
    return torch.eq(a, b)


def greater(a: Tensor, b: Tensor) -> Tensor:
    return wide(torch.gt, a, b)


def greater_or_equal(a: Tensor, b: Tensor) -> Tensor:
    return wide(torch.ge, a, b)


def less(a: Tensor, b: Tensor) -> Tensor:
    return wide(torch.lt, a, b)


def less_or_equal(a: Tensor, b: Tensor) -> Tensor:
    return wide(torch.le, a, b)


def where(condition: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return torch.where(condition, a, b)


def bit_shift(a: Tensor, b: Tensor, *, direction: str) -> Tensor:
    return wide(torch.bitwise_left_shift if direction == "LEFT" else torch.bitwise_right_shift, a, b)


def bitwise_not(x: Tensor) -> Tensor:
    return wide(torch.bitwise_not, x)


def is_inf(x: Tensor, *, detect_negative: int = 1, detect_positive: int = 1) -> Tensor:
    negative = torch.isneginf(x) if detect_negative else torch.zeros_like(x, dtype=torch.bool)
    return negative | torch.isposinf(x) if detect_positive else negative


def is_nan(x: Tensor) -> Tensor:
    return torch.isnan(x)


def cast_to(x: Tensor, *, to: int, saturate: int = 1, round_mode: str = "up") -> Tensor:
    return cast(x, to, bool(saturate), round_mode)


def cast_like(
    x: Tensor, like: Tensor, *, saturate: int = 1, round_mode: str = "up", types: Sequence[int | None]
) -> Tensor:
    """The ONNX type of `like` counts where it is known: torch holds narrow integers one to a byte."""
    target = types[1]
    return x.to(like.dtype) if target is None else cast(x, target, bool(saturate), round_mode)


OPERATORS: dict[str, Operator] = {
    "Abs": Operator(absolute),
    "Acos": Operator(torch.acos),
    "Acosh": Operator(torch.acosh),
    "Add": Operator(add),
    "And": Operator(torch.logical_and),
    "Asin": Operator(torch.asin),
    "Asinh": Operator(torch.asinh),
    "Atan": Operator(torch.atan),
    "Atanh": Operator(torch.atanh),
    "BitShift": Operator(bit_shift),
    "BitwiseAnd": Operator(torch.bitwise_and),
    "BitwiseNot": Operator(bitwise_not),
    "BitwiseOr": Operator(torch.bitwise_or),
    "BitwiseXor": Operator(torch.bitwise_xor),
    "Cast": Operator(cast_to),
    "CastLike": Operator(cast_like, wants=("types",)),
    "Ceil": Operator(torch.ceil),
    "Clip": Operator(clip, static=(1, 2)),
    "Cos": Operator(torch.cos),
    "Cosh": Operator(torch.cosh),
    "Div": Operator(div),
    "Equal": Operator(equal),
    "Erf": Operator(torch.erf),
    "Exp": Operator(torch.exp),
    "Floor": Operator(torch.floor),
    "Greater": Operator(greater),
    "GreaterOrEqual": Operator(greater_or_equal),
    "IsInf": Operator(is_inf),
    "IsNaN": Operator(is_nan),
    "Less": Operator(less),
    "LessOrEqual": Operator(less_or_equal),
    "Log": Operator(torch.log),
    "Max": Operator(maximum),
    "Mean": Operator(mean),
    "Min": Operator(minimum),
    "Mod": Operator(mod),
    "Mul": Operator(mul),
    "Neg": Operator(neg),
    "Not": Operator(torch.logical_not),
    "Or": Operator(torch.logical_or),
    "Pow": Operator(power),
    "Reciprocal": Operator(torch.reciprocal),
    "Round": Operator(torch.round),
    "Sign": Operator(sign),
    "Sin": Operator(torch.sin),
    "Sinh": Operator(torch.sinh),
    "Sqrt": Operator(torch.sqrt),
    "Sub": Operator(sub),
    "Sum": Operator(total),
    "Tan": Operator(torch.tan),
    "Where": Operator(where),
    "Xor": Operator(torch.logical_xor),
}
