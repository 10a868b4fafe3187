"""What quantization has to know about each ONNX operator, and nothing else.

An operator is one of these: it multiplies by weights (COMPUTE), hands its input's numbers on (SHARING), bounds them
(CLIPS), or makes new numbers out of integers (the rest: Add, pools, tables).
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgeopt.model.passes.edit import attribute, constant_of

__all__ = [
    "CLIPS",
    "COMPUTE",
    "ONNXRUNTIME",
    "SHARING",
    "WITH_BIAS",
    "clip_bounds",
    "data_inputs",
    "hands_on_values",
    "has_weight",
]

COMPUTE = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
WITH_BIAS = frozenset({"Conv", "ConvTranspose", "Gemm"})
CLIPS = frozenset({"Relu", "Clip"})
SHARING = frozenset({
    "MaxPool", "GlobalMaxPool", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Slice",
    "Split", "Gather", "Pad", "Resize", "Concat", "Expand", "Tile", "DepthToSpace", "SpaceToDepth",
    "Identity", "Dropout",
})  # fmt: skip
"""The output's numbers are the input's, zeros, or lie between them (Resize): one scale serves both."""

ONNXRUNTIME = frozenset({
    "Conv", "Gemm", "MatMul", "Add", "Mul", "AveragePool", "GlobalAveragePool", "Concat", "Sigmoid",
    "LeakyRelu", "Relu", "Clip", "MaxPool", "Reshape", "Flatten", "Transpose", "Squeeze",
    "Unsqueeze", "Slice", "Split", "Gather", "Resize", "Expand", "DepthToSpace", "Identity",
    "Dropout",
})  # fmt: skip
"""Operators that onnxruntime's CPU provider computes on 8-bit integers between DQ and Q (version 1.32). Softmax has
such a kernel too, and is left out: probabilities below 1/256 would be lost and attention with them."""

TWO_INPUTS = frozenset({"Add", "Mul", "Sub", "Div", "MatMul", "Gemm"})


def has_weight(node: ir.Node) -> bool:
    """Whether input 1 is a constant matrix or kernel with an output channel axis."""
    if node.op_type not in COMPUTE or len(node.inputs) < 2:
        return False
    weight = constant_of(node.inputs[1])
    return weight is not None and weight.ndim >= 2


def data_inputs(node: ir.Node) -> list[int]:
    """Positions of the inputs that carry numbers to compute with, apart from a weight and a bias."""
    if node.op_type == "Concat":
        return list(range(len(node.inputs)))
    if node.op_type in TWO_INPUTS and not has_weight(node):
        return [0, 1]
    return [0]


def hands_on_values(node: ir.Node) -> bool:
    """Whether the output's numbers are the input's: SHARING, with the settings that keep it true.

    Padding must be with zeros or with copies of the input; cubic resizing overshoots.
    """
    if node.op_type == "Pad" and attribute(node, "mode", "constant") == "constant":
        value = node.inputs[2] if len(node.inputs) > 2 else None
        constant = constant_of(value)
        fill = np.asarray(attribute(node, "value", 0.0)) if value is None else constant
        return fill is not None and not fill.any()
    if node.op_type == "Resize":
        return attribute(node, "mode", "nearest") != "cubic"
    return node.op_type in SHARING


def clip_bounds(node: ir.Node) -> tuple[float, float] | None:
    """Bounds of a Relu or Clip; None for anything else and for bounds that are computed."""
    if node.op_type == "Relu":
        return 0.0, np.inf
    if node.op_type != "Clip":
        return None
    bounds = [float(attribute(node, "min", -np.inf)), float(attribute(node, "max", np.inf))]  # type: ignore[arg-type]
    for index, value in enumerate(node.inputs[1:3]):
        if value is not None:
            constant = constant_of(value)
            if constant is None:
                return None
            bounds[index] = float(constant)
    return bounds[0], bounds[1]
