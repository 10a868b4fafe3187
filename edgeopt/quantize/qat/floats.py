"""The float values that training starts from: those of the float model, wherever they round to the same integers."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgeopt.model.passes.edit import attribute, constant_of

__all__ = ["along", "layer_floats", "start_values"]


def layer_floats(node: ir.Node, index: int) -> np.ndarray | None:
    """The constant at input `index` (1: weight, 2: bias) of a float layer, with a Gemm's alpha or beta multiplied in.

    None where there is none, or none of plain shape.
    """
    array = constant_of(node.inputs[index]) if index < len(node.inputs) else None
    if array is None or node.op_type != "Gemm":
        return array
    factor = np.float32(attribute(node, "alpha" if index == 1 else "beta", 1.0))  # type: ignore[arg-type]
    return np.asarray(array if factor == 1 else array * factor)


def start_values(
    integers: np.ndarray, scale: np.ndarray, axis: int | None, ends: tuple[int, int], floats: np.ndarray | None
) -> np.ndarray:
    """float32 values that round to `integers` (counted from the zero point): `floats` where they do.

    Elsewhere (a refinement chose another integer, or there are no `floats`) the middle of the integer's cell.
    """
    step = along(scale, axis, integers.ndim)
    middle = np.asarray(integers.astype(np.float32) * step, np.float32)
    if floats is None or floats.size not in (1, integers.size):
        return middle
    values = np.broadcast_to(floats.reshape(-1) if floats.size == 1 else floats.reshape(integers.shape), integers.shape)
    agrees = np.clip(np.rint(values / step), *ends) == integers
    return np.where(agrees, values, middle).astype(np.float32)


def along(scale: np.ndarray, axis: int | None, rank: int) -> np.ndarray:
    """`scale` shaped to broadcast over a tensor of `rank`."""
    if scale.ndim == 0 or axis is None:
        return scale.reshape(())
    return scale.reshape([-1 if index == axis % rank else 1 for index in range(rank)])
