"""Float islands of a Q/DQ graph: layers that were left in float, which a half precision tier gets as float16.

Before version 11 TensorRT chose float16 for them by itself, given the builder's fp16 flag; since then, as NVIDIA's
developer guide says ("Strongly Typed Networks", "Explicit Quantization"), the types in the file decide and there are no
such flags. Only the islands are converted: Q and DQ keep their float32 scales, which float16 would round, and the
integer layers between them compute the same to the bit.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from edgeopt.model.model import Model
from edgeopt.model.passes.edit import constant_of

__all__ = ["outside_islands"]

WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
CONVERTERS = frozenset({"QuantizeLinear", "DequantizeLinear"})


def outside_islands(model: Model) -> set[str] | None:
    """First outputs of the nodes that stay in float32; None when the graph has no island.

    An island begins at a layer with float weights and goes on through nodes that read nothing else but islands.
    """
    islands: set[ir.Node] = set()
    for node in model.graph.graph:
        if node.op_type not in CONVERTERS and (_has_float_weight(node) or _reads_islands(node, islands)):
            islands.add(node)
    if not islands:
        return None
    return {node.outputs[0].name or "" for node in model.graph.graph if node not in islands}


def _has_float_weight(node: ir.Node) -> bool:
    if node.op_type not in WEIGHTED or len(node.inputs) < 2 or node.inputs[0] is None:
        return False
    weight = constant_of(node.inputs[1])
    return weight is not None and weight.dtype == "float32" and weight.ndim >= 2


def _reads_islands(node: ir.Node, islands: set[ir.Node]) -> bool:
    makers = list(_makers(node))
    return bool(makers) and all(maker in islands for maker in makers)


def _makers(node: ir.Node) -> Iterator[ir.Node | None]:
    """Who computes the float inputs of the node; None for an input of the graph."""
    for value in node.inputs:
        if value is not None and value.dtype == ir.DataType.FLOAT and constant_of(value) is None:
            yield value.producer()
