"""Transpose of a weight, done once: torch's exporter writes a linear layer as MatMul(x, Transpose(weight)).

onnxsim folds it too, but under a name of its own; here the weight keeps its name, by which reports know the layer.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgeopt.model.passes.edit import add_constant, constant_of

__all__ = ["fold_transposes"]


def fold_transposes(model: ir.Model) -> int:
    """Make each Transpose of an initializer an initializer; a weight that others read too stays as it is for them."""
    folded = 0
    for node in list(model.graph):
        source = node.inputs[0] if node.op_type == "Transpose" and node.domain == "" else None
        if source is not None and source.is_initializer() and not node.outputs[0].is_graph_output():
            _fold(model.graph, node, source)
            folded += 1
    return folded


def _fold(graph: ir.Graph, node: ir.Node, source: ir.Value) -> None:
    array, name = constant_of(source), source.name or "weight"
    assert array is not None
    turned = np.transpose(array, node.attributes.get_ints("perm", None))
    node.replace_input_with(0, None)
    if not source.uses() and not source.is_graph_output():
        graph.initializers.pop(name)
    node.outputs[0].replace_all_uses_with(add_constant(graph, name, turned))
    graph.remove(node, safe=True)
