"""The few moves that every pass is made of: put nodes in a node's place, take one out, add a constant."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

__all__ = ["add_constant", "attribute", "bypass", "constant_of", "replace_node"]


def constant_of(value: ir.Value | None) -> np.ndarray | None:
    """The array of an initializer (or of a Constant node's tensor); None for anything computed."""
    if value is None:
        return None
    if value.const_value is not None:
        return np.asarray(value.const_value.numpy())
    node = value.producer()
    if node is not None and node.op_type == "Constant" and "value" in node.attributes:
        return np.asarray(node.attributes["value"].as_tensor().numpy())
    return None


def attribute(node: ir.Node, name: str, default: object = None) -> object:
    """An attribute's plain value, or `default` when the node does not carry it."""
    found = node.attributes.get(name)
    return default if found is None else found.value


def add_constant(graph: ir.Graph, name: str, array: np.ndarray) -> ir.Value:
    """A new initializer called `name`, or `name.1`, `name.2` ... when that is taken."""
    taken, number, free = set(graph.initializers), 0, name
    while free in taken:
        number += 1
        free = f"{name}.{number}"
    array = np.ascontiguousarray(array)
    tensor = ir.tensor(array, name=free)
    value = ir.Value(name=free, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.register_initializer(value)
    return value


def replace_node(node: ir.Node, nodes: Sequence[ir.Node]) -> None:
    """Put `nodes` where `node` is; the last one takes over its outputs, names included."""
    graph = node.graph
    if graph is None:
        raise ValueError(f"node {node.name!r} is in no graph")
    last = nodes[-1]
    for old, new in zip(node.outputs, last.outputs, strict=True):
        new.name, new.shape, new.type = old.name, old.shape, old.type
        _take_over(graph, old, new)
    graph.insert_before(node, list(nodes))
    graph.remove(node, safe=True)
    last.name = last.name or node.name


def bypass(node: ir.Node, source: ir.Value) -> bool:
    """Let everybody read `source` instead of the node's output, and remove the node.

    False, and nothing done, when that would make a graph input (or a constant, or a second name) a graph
    output.
    """
    graph, output = node.graph, node.outputs[0]
    if graph is None or any(extra.uses() for extra in node.outputs[1:]):
        return False
    if output in graph.outputs:
        if source.producer() is None or source in graph.outputs or source.graph is not graph:
            return False
        source.name = output.name
    _take_over(graph, output, source)
    graph.remove(node, safe=True)
    return True


def _take_over(graph: ir.Graph | ir.Function, old: ir.Value, new: ir.Value) -> None:
    for position, output in enumerate(graph.outputs):
        if output is old:
            graph.outputs[position] = new
    ir.convenience.replace_all_uses_with(old, new)
