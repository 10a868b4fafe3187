"""What numbers a graph computes in."""

from __future__ import annotations

import onnx_ir as ir

from edgeopt.model.model import Model
from edgeopt.model.quantized import is_quantized
from edgeopt.tiers.tier import Precision

__all__ = ["precision_of"]


def precision_of(model: Model) -> Precision:
    """int8 with any quantized operator; else fp16 when that is what most bytes of its weights are; else
    fp32.
    """
    if is_quantized(model):
        return "int8"
    sizes = {ir.DataType.FLOAT16: 0, ir.DataType.FLOAT: 0}
    for value in model.graph.graph.initializers.values():
        tensor = value.const_value
        if tensor is not None and tensor.dtype in sizes:
            sizes[tensor.dtype] += tensor.nbytes
    return "fp16" if sizes[ir.DataType.FLOAT16] > sizes[ir.DataType.FLOAT] else "fp32"
