"""Rules of explicit quantization, checked on any Q/DQ file.

A runtime that takes Q/DQ nodes at their word (TensorRT's "explicit quantization", NVIDIA's developer guide,
chapter "Working with quantized types", sections "Explicit quantization" and "Q/DQ placement recommendations")
refuses some placements and answers others with slow float kernels. Which rules hold is read off a tier's `placement`:
symmetric activations, per-channel weights, float biases, and, where outputs are not quantized, that pairs stand on the
inputs of layers and never inside a fusion. What a pair itself has to be (constant positive scales, both halves there)
is in `pairs.py`, what its neighbours make of it in `fusions.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edgeopt.export.fusions import FUSION_RULES
from edgeopt.export.pairs import ALWAYS, EXPLICIT, dequantized_constant
from edgeopt.model.model import Model
from edgeopt.model.passes.edit import attribute, constant_of
from edgeopt.tiers import Placement

__all__ = ["Finding", "lint"]


@dataclass(frozen=True)
class Finding:
    """One place where a file breaks a rule."""

    rule: str
    node: str
    message: str
    """What is wrong, and what would do."""

    def __str__(self) -> str:
        return f"{self.node}: {self.message}"


Rule = Callable[[ir.Node], str | None]
"""What is wrong with this node, or None."""


def lint(model: Model, placement: Placement) -> list[Finding]:
    """Where the Q/DQ nodes of `model` break the rules that `placement` states, in graph order.

    Bodies of control flow are looked into as well. A model without such nodes breaks none.
    """
    rules = _rules(placement)
    return [
        Finding(rule, node.name or node.outputs[0].name or node.op_type, message)
        for node in model.graph.graph.all_nodes()
        for rule, check in rules.items()
        if node.domain in ("", "ai.onnx") and (message := check(node)) is not None
    ]


def _rules(placement: Placement) -> dict[str, Rule]:
    rules: dict[str, Rule] = dict(ALWAYS)
    if placement.activations == "symmetric":
        rules["symmetric_activations"] = _asymmetric
    if placement.weights == "per_channel":
        rules["per_channel_weights"] = _not_per_channel
    rules["symmetric_weights"] = _weight_zero_point
    if not placement.quantize_bias:
        rules["float_bias"] = _quantized_bias
    if not placement.quantize_outputs:
        rules |= EXPLICIT | FUSION_RULES
    return rules


WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})


def _asymmetric(node: ir.Node) -> str | None:
    if node.op_type != "QuantizeLinear" or len(node.inputs) < 3:
        return "has no zero point, so it is uint8" if node.op_type == "QuantizeLinear" else None
    zero = constant_of(node.inputs[2])
    if zero is None:
        return "has a computed zero point"
    if zero.dtype != np.int8:
        return f"quantizes to {zero.dtype}; symmetric quantization is int8"
    return f"has zero point {int(zero.reshape(-1)[0])}; it has to be 0" if zero.any() else None


def _weight(node: ir.Node) -> ir.Node | None:
    """The DequantizeLinear of a layer's constant weight."""
    return dequantized_constant(node, 1) if node.op_type in WEIGHTED else None


def _not_per_channel(node: ir.Node) -> str | None:
    weight = _weight(node)
    scale = constant_of(weight.inputs[1]) if weight is not None else None
    if weight is None or scale is None:
        return None
    array = constant_of(weight.inputs[0])
    if array is None or array.ndim < 2:
        return None
    right = _output_axis(node, array.ndim)
    if right is None:
        return None
    if scale.size == 1:
        return None if array.shape[right] == 1 else "has one scale for the whole weight; give each channel its own"
    axis = int(attribute(weight, "axis", 1)) % array.ndim  # type: ignore[call-overload]
    return None if axis == right else f"has weight scales along axis {axis}; output channels are axis {right}"


def _output_axis(node: ir.Node, rank: int) -> int | None:
    """The weight's axis of output channels; None where a scale for each of them cannot be written down: in a grouped
    ConvTranspose, whose axis 1 counts the channels of one group only, and in a batch of matrices.
    """
    match node.op_type:
        case "Conv":
            return 0
        case "ConvTranspose":
            return 1 if attribute(node, "group", 1) == 1 else None
        case "Gemm":
            return 0 if attribute(node, "transB", 0) else 1
    return 1 if rank == 2 else None


def _weight_zero_point(node: ir.Node) -> str | None:
    weight = _weight(node)
    zero = constant_of(weight.inputs[2]) if weight is not None and len(weight.inputs) > 2 else None
    return "has weights with a zero point that is not 0" if zero is not None and zero.any() else None


def _quantized_bias(node: ir.Node) -> str | None:
    if node.op_type in WEIGHTED and dequantized_constant(node, 2) is not None:
        return "has a quantized bias; it has to stay float"
    return None
