"""One name for each node: plans, exclude lists and reports call nodes by name."""

from __future__ import annotations

import onnx_ir as ir

__all__ = ["name_nodes"]


def name_nodes(model: ir.Model) -> None:
    """Name the nodes that have no name, or one that came before, in place; bodies of control flow count too.

    onnx_ir's NameFixPass lets a node in a body be called as one outside.
    """
    taken: set[str] = set()
    for node in _outside_first(model):
        name, number = node.name or node.op_type.lower(), 0
        while not name or name in taken:
            number += 1
            name = f"{node.name or node.op_type.lower()}_{number}"
        taken.add(name)
        node.name = name


def _outside_first(model: ir.Model) -> list[ir.Node]:
    outside = list(model.graph)
    return outside + [node for node in model.graph.all_nodes() if node.graph is not model.graph]
