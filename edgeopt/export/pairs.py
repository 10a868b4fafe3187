"""What a QuantizeLinear and its DequantizeLinear have to be by themselves: the first half of the lint's rules."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from edgeopt.model.passes.edit import constant_of

__all__ = ["ALWAYS", "CONVERTERS", "EXPLICIT", "dequantized_constant", "scale_of"]

CONVERTERS = ("QuantizeLinear", "DequantizeLinear")


def scale_of(node: ir.Node) -> np.ndarray | None:
    """The constant scale of a Q or DQ node."""
    return constant_of(node.inputs[1]) if len(node.inputs) > 1 else None


def dequantized_constant(node: ir.Node, index: int) -> ir.Node | None:
    """The DequantizeLinear of a constant that input `index` is, a Transpose in between allowed: of integers, or of
    floats that a QuantizeLinear in the file rounds.
    """
    value = node.inputs[index] if len(node.inputs) > index else None
    maker = value.producer() if value is not None else None
    if maker is not None and maker.op_type == "Transpose" and maker.inputs[0] is not None:
        maker = maker.inputs[0].producer()
    if maker is None or maker.op_type != "DequantizeLinear" or maker.inputs[0] is None:
        return None
    source = maker.inputs[0].producer()
    rounded = source is not None and source.op_type == "QuantizeLinear" and constant_of(source.inputs[0]) is not None
    return maker if rounded or constant_of(maker.inputs[0]) is not None else None


def _bad_scale(node: ir.Node) -> str | None:
    if node.op_type not in CONVERTERS:
        return None
    scale = scale_of(node)
    if scale is None or (np.isfinite(scale).all() and (scale > 0).all()):
        return None
    return "has a scale that is not a positive number; calibrate again, or leave the tensor in float"


def _lonely(node: ir.Node) -> str | None:
    """A QuantizeLinear whose integers somebody else than a DequantizeLinear or a quantized operator reads."""
    if node.op_type != "QuantizeLinear":
        return None
    for user, _ in node.outputs[0].uses():
        if user.op_type != "DequantizeLinear" and not user.op_type.startswith(("Q", "ConvInteger", "MatMulInteger")):
            return f"is read by {user.op_type} {user.name or ''}".rstrip() + " without a DequantizeLinear; add one"
    return None


def _mismatched(node: ir.Node) -> str | None:
    """A DequantizeLinear that does not undo the QuantizeLinear before it."""
    if node.op_type != "DequantizeLinear" or node.inputs[0] is None:
        return None
    source = node.inputs[0].producer()
    if source is None or source.op_type != "QuantizeLinear":
        return None
    for index, what in ((1, "scale"), (2, "zero point")):
        ours, theirs = (constant_of(n.inputs[index]) if len(n.inputs) > index else None for n in (node, source))
        if ours is not None and theirs is not None and not np.array_equal(ours, theirs):
            return f"has another {what} than its QuantizeLinear {source.name or ''}".rstrip() + "; give both the same"
    return None


def _computed_scale(node: ir.Node) -> str | None:
    if node.op_type in CONVERTERS and scale_of(node) is None:
        return "has a computed scale; it has to be a constant (no dynamic quantization here)"
    return None


def _per_channel_activation(node: ir.Node) -> str | None:
    if node.op_type != "QuantizeLinear" or constant_of(node.inputs[0]) is not None:
        return None
    scale = scale_of(node)
    if scale is None or scale.size == 1:
        return None
    return f"has {scale.size} scales for an activation; only weights may have one for each channel"


ALWAYS: dict[str, Callable[[ir.Node], str | None]] = {
    "positive_scales": _bad_scale,
    "paired": _lonely,
    "same_grid": _mismatched,
}
"""Rules of every runtime."""
EXPLICIT: dict[str, Callable[[ir.Node], str | None]] = {
    "constant_scales": _computed_scale,
    "per_tensor_activations": _per_channel_activation,
}
"""Rules of explicit quantization."""
