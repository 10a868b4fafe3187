"""Placement for explicit quantization (TensorRT): pairs on inputs only. `placement.py` argues for it."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from edgeopt.model.passes.edit import constant_of
from edgeopt.quantize.eligible import why_float
from edgeopt.quantize.operators import COMPUTE, has_weight
from edgeopt.quantize.plan import Plan, Point, Use
from edgeopt.tiers import Tier

__all__ = ["plan_inputs"]

CONVOLUTIONS = ("Conv", "ConvTranspose")
OTHER = "this tier quantizes the inputs of Conv, Gemm, MatMul and residual Adds only"


def plan_inputs(nodes: Sequence[ir.Node], tier: Tier, excluded: set[str]) -> Plan:
    """A pair on the input of every layer with weights, and on one input of every residual Add."""
    operators = tier.placement.operators or COMPUTE
    uses: dict[ir.Value, list[Use]] = {}
    integer: dict[str, str] = {}
    floating: dict[str, str] = {}
    for node in nodes:
        name = node.name or ""
        reason = why_float(node, operators, excluded) if node.op_type in COMPUTE else OTHER
        if reason is None and has_weight(node):
            integer[name] = node.op_type
            uses.setdefault(node.inputs[0], []).append((name, 0))  # type: ignore[arg-type]
            continue
        residual = _residual_input(node, integer) if node.op_type == "Add" and name not in excluded else None
        if residual is not None:
            integer[name] = node.op_type
            uses.setdefault(node.inputs[residual], []).append((name, residual))  # type: ignore[arg-type]
        else:
            floating[name] = reason or "its weight is computed"
    return Plan(
        points=tuple(Point(v.name or "", v.name or "", tuple(found)) for v, found in uses.items()),
        sources={v.name or "": (v.name or "",) for v in uses},
        weights=tuple(name for name, operator in integer.items() if operator in COMPUTE),
        folded={},
        integer=integer,
        floating=floating,
    )


def _residual_input(node: ir.Node, integer: dict[str, str]) -> int | None:
    """Which input of an Add is the one beside the convolution it is fused into: the last made of those that go
    nowhere else is fused. None when neither comes straight from an integer convolution: a transformer's residual
    stream gains no kernel by a pair and loses its small values to its outliers."""
    fused: int | None = None
    latest = -1
    order = list(integer)
    for index, value in enumerate(node.inputs):
        maker = value.producer() if value is not None else None
        if maker is None or maker.name not in integer or len(maker.outputs[0].uses()) > 1:
            continue
        if maker.op_type in CONVOLUTIONS and order.index(maker.name) > latest:
            fused, latest = index, order.index(maker.name)
    other = None if fused is None else node.inputs[1 - fused]
    return 1 - fused if fused is not None and constant_of(other) is None else None
