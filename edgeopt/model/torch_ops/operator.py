"""What the table of operators holds, and how functions read their static inputs.

An operator's function takes the node's inputs by position (None for one that is left out) and its attributes by
their ONNX names, and returns a tensor, or a tuple when the node has several outputs. An operand that moved from
attribute to input in a later opset (axes, split, min, max) is one argument, so that both forms work.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

__all__ = ["Ints", "Operator", "Scalar", "ints", "scalar", "wide"]

Ints = Sequence[int] | torch.Tensor
"""A shape, axes, pads ...: a list baked in at conversion, or a tensor when the graph computes it."""

Scalar = float | Sequence[float] | torch.Tensor
"""One number: baked in at conversion (ONNX writes it with shape [] or [1]), or a tensor."""


class Operator(NamedTuple):
    """A torch function for an ONNX operator, and what it needs besides inputs and attributes."""

    function: Callable[..., Any]
    static: tuple[int, ...] = ()
    """Inputs that are baked in as Python numbers where the graph holds them as constants."""
    wants: tuple[str, ...] = ()
    """Any of: `training` (the module's mode), `outputs` (how many there are), `opset`, `stored` (of each input,
    whether it is an initializer), and `types` (the ONNX data types of the inputs, then of the outputs; None where
    unknown)."""


def ints(value: Ints) -> list[int]:
    """A static operand as a list of ints, whatever rank it was written with."""
    found = value.tolist() if isinstance(value, torch.Tensor) else value
    return [int(n) for n in found] if isinstance(found, Sequence) else [int(found)]


def scalar(value: Scalar) -> float:
    """A static operand as one Python number (an int stays an int)."""
    found = value.tolist() if isinstance(value, torch.Tensor) else value
    while isinstance(found, Sequence):
        found = found[0]
    return found


_UNSIGNED = (torch.uint16, torch.uint32, torch.uint64)


def wide(function: Callable[..., torch.Tensor], *tensors: torch.Tensor) -> torch.Tensor:
    """Apply `function`; for uint16 to uint64, which torch stores but hardly computes with, by way of int64.

    Sums and products wrap as ONNX asks; uint64 values from 2**63 up are ordered wrongly.
    """
    dtype = tensors[0].dtype
    if dtype not in _UNSIGNED:
        return function(*tensors)
    result = function(*(t.to(torch.int64) if t.dtype in _UNSIGNED else t for t in tensors))
    return result.to(dtype) if result.dtype == torch.int64 else result
