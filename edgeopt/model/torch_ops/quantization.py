"""Quantization as ONNX's QuantizeLinear and DequantizeLinear define it, and integer products.

These read a quantized graph faithfully; rounding has no gradient, so training through them needs the
straight-through form that quantization-aware training puts in their place.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir
import torch

from edgeopt.model.torch_ops.convolution import conv
from edgeopt.model.torch_ops.dtypes import cast, torch_dtype
from edgeopt.model.torch_ops.operator import Operator

__all__ = ["OPERATORS"]

Tensor = torch.Tensor
Types = Sequence[ir.DataType | None]

_RANGES = {
    ir.DataType.UINT8: (0, 255),
    ir.DataType.INT8: (-128, 127),
    ir.DataType.UINT16: (0, 65535),
    ir.DataType.INT16: (-32768, 32767),
    ir.DataType.UINT4: (0, 15),
    ir.DataType.INT4: (-8, 7),
    ir.DataType.UINT2: (0, 3),
    ir.DataType.INT2: (-2, 1),
    ir.DataType.INT32: (-(2**31), 2**31 - 1),
}


def quantize_linear(
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor | None = None,
    *,
    axis: int = 1,
    block_size: int = 0,
    output_dtype: int = 0,
    precision: int = 0,
    saturate: int = 1,
    types: Types,
) -> Tensor:
    """round_half_even(x / scale) + zero_point, saturated; per tensor, per `axis`, or per block of it."""
    target = ir.DataType(output_dtype) if output_dtype else _type_of(zero_point, types)
    compute = torch_dtype(precision) or torch.promote_types(x.dtype, torch.float32)
    scaled = x.to(compute) / _spread(scale, x, axis, block_size).to(compute)
    if target not in _RANGES:
        return cast(scaled, target, bool(saturate))
    low, high = _RANGES[target]
    scaled = torch.round(scaled)
    if zero_point is not None:
        scaled = scaled + _spread(zero_point, x, axis, block_size).to(compute)
    return cast(torch.clamp(scaled, low, high), target)


def _type_of(zero_point: Tensor | None, types: Types) -> ir.DataType:
    """The zero point's type; uint8 when there is none."""
    known = types[2] if zero_point is not None else ir.DataType.UINT8
    return known or ir.DataType.UINT8


def dequantize_linear(
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor | None = None,
    *,
    axis: int = 1,
    block_size: int = 0,
    output_dtype: int = 0,
) -> Tensor:
    """(x - zero_point) * scale, in the scale's type or `output_dtype`."""
    compute = torch.promote_types(scale.dtype, torch.float32)
    y = x.to(compute)
    if zero_point is not None:
        y = y - _spread(zero_point, x, axis, block_size).to(compute)
    y = y * _spread(scale, x, axis, block_size).to(compute)
    return y.to(torch_dtype(output_dtype) or scale.dtype)


def _spread(parameter: Tensor, x: Tensor, axis: int, block_size: int) -> Tensor:
    """A scale or zero point in a shape that broadcasts to x."""
    if block_size:
        return parameter.repeat_interleave(block_size, axis).narrow(axis, 0, x.shape[axis])
    if parameter.numel() == 1:
        return parameter.reshape(())
    return parameter.reshape([-1 if i == axis % x.dim() else 1 for i in range(x.dim())])


def dynamic_quantize_linear(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """uint8 over the range of x widened to contain 0: values, scale, zero point."""
    zero = torch.zeros((), dtype=x.dtype, device=x.device)
    low, high = torch.minimum(x.min(), zero), torch.maximum(x.max(), zero)
    scale = (high - low) / 255
    point = torch.clamp(torch.round(-low / scale), 0, 255)
    values = torch.clamp(torch.round(x / scale) + point, 0, 255)
    return values.to(torch.uint8), scale, point.to(torch.uint8)


def mat_mul_integer(
    a: Tensor, b: Tensor, a_zero_point: Tensor | None = None, b_zero_point: Tensor | None = None
) -> Tensor:
    """Exact: int32 sums computed in int32. A vector of zero points is one per row of a, per column of b."""
    rows = a_zero_point.unsqueeze(-1) if a_zero_point is not None and a_zero_point.dim() == 1 else a_zero_point
    return torch.matmul(_centred(a, rows), _centred(b, b_zero_point))


def conv_integer(
    x: Tensor,
    weight: Tensor,
    x_zero_point: Tensor | None = None,
    w_zero_point: Tensor | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Sequence[int] | None = None,
    group: int = 1,
    kernel_shape: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Tensor:
    """By way of float64, which holds every int32 exactly."""
    point = w_zero_point
    if point is not None and point.dim() == 1:
        point = point.reshape(-1, *[1] * (weight.dim() - 1))
    y = conv(
        _centred(x, x_zero_point).double(),
        _centred(weight, point).double(),
        auto_pad=auto_pad,
        dilations=dilations,
        group=group,
        pads=pads,
        strides=strides,
    )
    return y.to(torch.int32)


def _centred(x: Tensor, zero_point: Tensor | None) -> Tensor:
    x = x.to(torch.int32)
    return x if zero_point is None else x - zero_point.to(torch.int32)


OPERATORS: dict[str, Operator] = {
    "ConvInteger": Operator(conv_integer),
    "DequantizeLinear": Operator(dequantize_linear),
    "DynamicQuantizeLinear": Operator(dynamic_quantize_linear),
    "MatMulInteger": Operator(mat_mul_integer),
    "QuantizeLinear": Operator(quantize_linear, wants=("types",)),
}
