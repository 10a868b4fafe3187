"""Is a graph quantized already? One answer for all who ask."""

from __future__ import annotations

import onnx_ir as ir

from edgeopt.errors import UsageError
from edgeopt.model.model import Model

__all__ = ["is_quantized", "refuse_quantized"]

PREFIXES = (
    "QuantizeLinear",
    "DequantizeLinear",
    "DynamicQuantize",
    "QLinear",
    "QGemm",
    "QAttention",
    "ConvInteger",
    "GatherBlockQuantized",
    "MatMulInteger",
    "MatMulNBits",
)


def is_quantized(model: Model) -> bool:
    """Whether any operator takes or gives quantized numbers."""
    return _first(model) is not None


def refuse_quantized(model: Model) -> None:
    """Raise UsageError, naming the first such node, for work that wants a float model."""
    found = _first(model)
    if found is not None:
        raise UsageError(f"the model is quantized already ({found})", fix="give the float model it was made from")


def _first(model: Model) -> str | None:
    nodes = model.graph.graph.all_nodes()
    found = next((node for node in nodes if node.op_type.startswith(PREFIXES) or _is_packed(node)), None)
    return f"node {found.name!r} is a {found.op_type}" if found is not None else None


def _is_packed(node: ir.Node) -> bool:
    """A weight stored as int8: Cast of such a constant."""
    stored = node.inputs[0].const_value if node.op_type == "Cast" and node.inputs[0] is not None else None
    return stored is not None and stored.dtype == ir.DataType.INT8 and len(stored.shape) > 1
