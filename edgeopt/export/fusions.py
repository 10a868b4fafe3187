"""Where pairs stand in a graph that a runtime will fuse: the second half of the lint's rules.

TensorRT moves QuantizeLinear backward and DequantizeLinear forward over operators that only hand numbers on (pools of
maxima, reshapes, transpositions), fuses DequantizeLinear into the layers that read it, and a layer with the pointwise
operators and the residual Add after it. A layer runs in integers when all of its inputs come dequantized; a pair inside
what would be one kernel takes it apart.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from edgeopt.export.pairs import dequantized_constant, scale_of
from edgeopt.model.passes.edit import constant_of

__all__ = ["FUSION_RULES"]

LAYERS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
CONVOLUTIONS = frozenset({"Conv", "ConvTranspose"})
POINTWISE = frozenset({"BatchNormalization", "Clip", "Elu", "LeakyRelu", "PRelu", "Relu"})
"""Fused into the layer before them."""
COMMUTING = frozenset({
    "DepthToSpace", "Dropout", "Expand", "Flatten", "Gather", "Identity", "MaxPool", "Reshape", "Slice", "SpaceToDepth",
    "Split", "Squeeze", "Transpose", "Unsqueeze",
})  # fmt: skip
"""The numbers that go in come out: Q and DQ may stand on either side."""


def _maker(value: ir.Value | None) -> ir.Node | None:
    return value.producer() if value is not None else None


def _over_commuting(value: ir.Value | None) -> ir.Node | None:
    """The node whose numbers the value holds, commuting operators skipped."""
    node = _maker(value)
    while node is not None and node.op_type in COMMUTING:
        node = _maker(node.inputs[0])
    return node


def _dequantized(value: ir.Value | None) -> bool:
    node = _over_commuting(value)
    return node is not None and node.op_type == "DequantizeLinear"


def _behind_pair(value: ir.Value | None) -> ir.Node | None:
    """What makes a tensor that goes through Q and DQ."""
    dequantize = _maker(value)
    if dequantize is None or dequantize.op_type != "DequantizeLinear":
        return None
    quantize = _maker(dequantize.inputs[0])
    if quantize is None or quantize.op_type != "QuantizeLinear":
        return None
    return _maker(quantize.inputs[0])


def _called(node: ir.Node) -> str:
    return f"{node.op_type} {node.name or ''}".rstrip()


def _pair_inside_fusion(node: ir.Node) -> str | None:
    """Conv -> Q -> DQ -> Relu: the runtime would fuse Conv and Relu, and the pair keeps it from that."""
    if node.op_type not in POINTWISE:
        return None
    layer = _behind_pair(node.inputs[0])
    if layer is None or layer.op_type not in (*LAYERS, "Add", "BatchNormalization"):
        return None
    return f"is cut off from {_called(layer)} by a Q/DQ pair"


def _half_quantized(node: ir.Node) -> str | None:
    """A layer with integers on one input and floats on the other runs in float, conversions and all."""
    if node.op_type not in LAYERS or len(node.inputs) < 2:
        return None
    data, weight = _dequantized(node.inputs[0]), _dequantized(node.inputs[1]) or _constant_pair(node)
    if data == weight:
        return None
    lacking, place = ("weight", 1) if data else ("input", 0)
    name = node.inputs[place].name if node.inputs[place] is not None else ""  # type: ignore[union-attr]
    return f"has a float {lacking} beside a quantized one, so it runs in float; quantize {name} too, or neither"


def _constant_pair(node: ir.Node) -> bool:
    return dequantized_constant(node, 1) is not None


def _residual(node: ir.Node) -> str | None:
    """The sum of a convolution and a skipped tensor is part of the convolution, if that tensor comes in integers."""
    if node.op_type != "Add":
        return None
    for index in (0, 1):
        layer, other = _integer_convolution(node.inputs[index]), node.inputs[1 - index]
        if layer is None or constant_of(other) is not None or _dequantized(other):
            continue
        if _integer_convolution(other) is not None:
            continue  # either is fused; which of the two gets the pair is the other's finding, or the runtime's choice
        name = other.name if other is not None else ""
        return f"adds a float tensor to {_called(layer)}; quantize {name} so that the sum is fused into the convolution"
    return None


def _integer_convolution(value: ir.Value | None) -> ir.Node | None:
    """The integer convolution that makes the value for one reader alone."""
    node = _maker(value)
    if node is None or value is None or node.op_type not in CONVOLUTIONS or len(value.uses()) > 1:
        return None
    return node if _dequantized(node.inputs[0]) and _constant_pair(node) else None


def _both_sides_of_add(node: ir.Node) -> str | None:
    """Conv -> Q -> DQ -> Add with the other side dequantized as well: two rounded tensors, and a kernel of its own."""
    if node.op_type != "Add" or not all(_dequantized(value) for value in node.inputs):
        return None
    for value in node.inputs:
        layer = _behind_pair(value)
        if layer is not None and layer.op_type in CONVOLUTIONS and len(layer.outputs[0].uses()) == 1:
            return f"is cut off from {_called(layer)} by a Q/DQ pair; leave the pair on its other input only"
    return None


def _two_scales(node: ir.Node) -> str | None:
    """DQ -> MaxPool -> Q with another scale: the pairs cannot be moved over it, so it runs in float."""
    if node.op_type not in COMMUTING:
        return None
    before = _maker(node.inputs[0])
    if before is None or before.op_type != "DequantizeLinear":
        return None
    ours = scale_of(before)
    for user, _ in node.outputs[0].uses():
        theirs = scale_of(user) if user.op_type == "QuantizeLinear" else None
        if ours is not None and theirs is not None and not np.array_equal(ours, theirs):
            return f"is quantized with another scale by {_called(user)}; it only hands numbers on: use one scale"
    return None


def _mixed_concat(node: ir.Node) -> str | None:
    if node.op_type != "Concat":
        return None
    makers = [_maker(value) for value in node.inputs if constant_of(value) is None]
    scales = [scale_of(m) for m in makers if m is not None and m.op_type == "DequantizeLinear"]
    if not scales:
        return None
    if len(scales) < len(makers):
        return "has float inputs beside quantized ones; quantize all of them with one scale"
    known = [scale for scale in scales if scale is not None]
    if all(np.array_equal(known[0], scale) for scale in known[1:]):
        return None
    return f"has inputs of {len({s.tobytes() for s in known})} scales, each rescaled first; give all of them one"


FUSION_RULES: dict[str, Callable[[ir.Node], str | None]] = {
    "quantized_inputs": _half_quantized,
    "unbroken_fusion": _pair_inside_fusion,
    "unbroken_add": _both_sides_of_add,
    "quantized_residual": _residual,
    "one_scale": _two_scales,
    "one_scale_concat": _mixed_concat,
}
