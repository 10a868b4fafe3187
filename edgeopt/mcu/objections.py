"""What in a graph has no kernel, said before any work starts: all of it, for float and for quantized graphs."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from edgeopt.mcu.operators import READERS
from edgeopt.model.memory import constant_values
from edgeopt.model.model import Model
from edgeopt.model.passes.edit import attribute, constant_of

__all__ = ["objections"]

PASSED = frozenset({"BatchNormalization", "DequantizeLinear", "Dropout", "QuantizeLinear", "ReduceMean", "Constant"})
"""Read otherwise, or gone before the graph is quantized (BatchNormalization is folded, ReduceMean becomes a pool)."""


def objections(model: Model) -> list[str]:
    """One sentence for each node that the C code cannot run, with what would do."""
    graph = model.graph.graph
    constants = constant_values(graph)
    found = []
    for node in graph:
        if constants.issuperset(node.outputs) or node.op_type in PASSED:
            continue
        why = RULES[node.op_type](node) if node.op_type in RULES else ""
        if node.op_type not in READERS:
            why = f"the C code has no kernel for it; those it has are {', '.join(sorted(READERS))}"
        if why:
            found.append(f"{node.op_type} {node.name or node.outputs[0].name!r}: {why}")
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        found.append(f"{len(model.inputs)} inputs and {len(model.outputs)} outputs: the C code takes one of each")
    return found


def _product(node: ir.Node) -> str:
    weight = node.inputs[1]
    source = weight.producer() if weight is not None else None
    if source is not None and source.op_type == "DequantizeLinear":
        weight = source.inputs[0]
    if constant_of(weight) is None:
        return "its second factor is computed; only constant weights have a kernel"
    return "transA has none; transpose before it" if attribute(node, "transA", 0) else ""


def _conv(node: ir.Node) -> str:
    kernel = attribute(node, "kernel_shape", (1, 1))
    if len(kernel) > 2:  # type: ignore[arg-type]
        return "three dimensions have none; one and two have"
    return _product(node)


def _resize(node: ir.Node) -> str:
    mode = attribute(node, "mode", "nearest")
    return "" if mode in ("nearest", b"nearest") else f"mode {mode} has none; nearest has"


def _max_pool(node: ir.Node) -> str:
    return "its indices have none" if len(node.outputs) > 1 and node.outputs[1].uses() else ""


RULES: dict[str, Callable[[ir.Node], str]] = {
    "Conv": _conv,
    "Gemm": _product,
    "MatMul": _product,
    "MaxPool": _max_pool,
    "Resize": _resize,
}
