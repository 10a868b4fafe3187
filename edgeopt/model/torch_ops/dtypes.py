"""ONNX data types as torch data types, and arrays of one as tensors of the other."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import torch

__all__ = ["cast", "tensor_from", "to_array", "torch_dtype"]

_DTYPES: dict[int, torch.dtype] = {
    ir.DataType.FLOAT: torch.float32,
    ir.DataType.UINT8: torch.uint8,
    ir.DataType.INT8: torch.int8,
    ir.DataType.UINT16: torch.uint16,
    ir.DataType.INT16: torch.int16,
    ir.DataType.INT32: torch.int32,
    ir.DataType.INT64: torch.int64,
    ir.DataType.BOOL: torch.bool,
    ir.DataType.FLOAT16: torch.float16,
    ir.DataType.DOUBLE: torch.float64,
    ir.DataType.UINT32: torch.uint32,
    ir.DataType.UINT64: torch.uint64,
    ir.DataType.COMPLEX64: torch.complex64,
    ir.DataType.COMPLEX128: torch.complex128,
    ir.DataType.BFLOAT16: torch.bfloat16,
    ir.DataType.FLOAT8E4M3FN: torch.float8_e4m3fn,
    ir.DataType.FLOAT8E4M3FNUZ: torch.float8_e4m3fnuz,
    ir.DataType.FLOAT8E5M2: torch.float8_e5m2,
    ir.DataType.FLOAT8E5M2FNUZ: torch.float8_e5m2fnuz,
    ir.DataType.FLOAT8E8M0: torch.float8_e8m0fnu,
    # Narrow integers are held one to a byte.
    ir.DataType.INT4: torch.int8,
    ir.DataType.UINT4: torch.uint8,
    ir.DataType.INT2: torch.int8,
    ir.DataType.UINT2: torch.uint8,
}

_NARROW: dict[int, tuple[int, int]] = {
    ir.DataType.INT4: (-8, 16),
    ir.DataType.UINT4: (0, 16),
    ir.DataType.INT2: (-2, 4),
    ir.DataType.UINT2: (0, 4),
}
"""Smallest value and number of values of the integers below a byte."""

_BITS = {
    torch.bfloat16: np.int16,
    torch.float8_e4m3fn: np.int8,
    torch.float8_e4m3fnuz: np.int8,
    torch.float8_e5m2: np.int8,
    torch.float8_e5m2fnuz: np.int8,
    torch.float8_e8m0fnu: np.int8,
}
"""Types that numpy does not have, and the integers of their size."""


def torch_dtype(onnx_type: int | None) -> torch.dtype | None:
    """The torch type of an ONNX type; None when torch has none (strings, 4-bit floats)."""
    return _DTYPES.get(onnx_type) if onnx_type is not None else None


def tensor_from(value: ir.TensorProtocol) -> torch.Tensor:
    """A tensor of its own with the value's numbers. Raises KeyError when torch lacks the type."""
    dtype = _DTYPES[value.dtype]
    array = np.array(value.numpy())
    if dtype in _BITS:
        return torch.from_numpy(array.view(_BITS[dtype])).view(dtype)
    if array.dtype.kind == "V":
        array = array.astype(np.int8 if dtype == torch.int8 else np.uint8)
    return torch.from_numpy(array)


def to_array(tensor: torch.Tensor, like: np.dtype) -> np.ndarray:
    """The tensor's numbers as a fresh array of `like`, which is the numpy type of the same ONNX type."""
    tensor = tensor.detach().cpu().contiguous()
    if tensor.dtype in _BITS:
        bits: np.ndarray = tensor.view(getattr(torch, np.dtype(_BITS[tensor.dtype]).name)).numpy()
        return bits.view(like).copy()
    return tensor.numpy().astype(like)


def cast(x: torch.Tensor, onnx_type: int, saturate: bool = True, round_mode: str = "up") -> torch.Tensor:
    """Convert to an ONNX type that torch has. Integers wrap; 8-bit floats saturate unless told not to."""
    dtype = _DTYPES[onnx_type]
    if onnx_type in _NARROW:
        low, count = _NARROW[onnx_type]
        whole = x.to(torch.int64)
        return (torch.remainder(whole - low, count) + low).to(dtype)
    if dtype not in _BITS or dtype == torch.bfloat16:
        return x.to(dtype)
    if dtype == torch.float8_e8m0fnu:
        return _to_power_of_two(x, round_mode)
    limit = torch.finfo(dtype).max
    if saturate:
        return x.float().clamp(-limit, limit).to(dtype)
    if dtype == torch.float8_e4m3fn:  # torch saturates this one; 464 is the last number that rounds to 448
        x = torch.where(x.float().abs() > 464, float("nan"), x.float())
    return x.to(dtype)


def _to_power_of_two(x: torch.Tensor, round_mode: str) -> torch.Tensor:
    """|x| as E8M0, an exponent alone; `round_mode` says which power of two a number between two becomes."""
    mantissa, exponent = torch.frexp(x.float().abs())  # mantissa in [0.5, 1)
    limit = {"up": 0.5, "down": 1.0, "nearest": 0.75}[round_mode]
    above = mantissa >= limit if round_mode == "nearest" else mantissa > limit
    bits = (exponent - 1 + above.int() + 127).clamp(0, 254)
    bits = torch.where(x == 0, 0, bits)
    return torch.where(x.isfinite(), bits, 255).to(torch.uint8).view(torch.float8_e8m0fnu)
