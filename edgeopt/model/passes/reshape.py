"""Reshape by computed shapes, written with constants.

For a dynamic batch torch's exporter computes every Reshape's target from Shape(x): a dozen integer nodes
that TensorRT has to fold and that integer-only targets cannot run. When shape inference knows all but one
dim of the result, the same Reshape is a constant with one -1 in it, and the computation is dead.
"""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from edgeopt.model.passes.edit import add_constant, constant_of, replace_node

__all__ = ["fix_reshapes"]


def fix_reshapes(model: ir.Model) -> int:
    """Give each Reshape a constant target where its shape is known up to one dim; [N, -1] becomes Flatten."""
    rewritten = 0
    for node in list(model.graph):
        if node.op_type == "Reshape" and node.domain == "" and len(node.inputs) == 2:
            rewritten += _fix(model.graph, node)
    return rewritten


def _fix(graph: ir.Graph, node: ir.Node) -> bool:
    source, result = node.inputs[0], node.outputs[0].shape
    if source is None or result is None:
        return False
    if result.rank() == 2 and _keeps_first(source.shape, result):
        replace_node(node, [ir.node("Flatten", [source], attributes={"axis": 1})])
        return True
    old, target = constant_of(node.inputs[1]), _target(source.shape, result)
    if target is None or (old is not None and (old.tolist() == target or -1 not in old)):
        return False
    shape = add_constant(graph, f"{node.outputs[0].name}.shape", np.array(target, np.int64))
    replace_node(node, [ir.node("Reshape", [source, shape])])
    return True


def _keeps_first(before: ir.Shape | None, after: ir.Shape) -> bool:
    """Whether dim 0 stays what it is: the same number or name, or all the other dims multiply to the same."""
    if before is None or before.rank() < 2 or after.rank() < 2 or 0 in (*before, *after):
        return False
    if isinstance(before[0], int) or isinstance(after[0], int):
        return before[0] == after[0]
    rest = [dim for dim in (*before[1:], *after[1:]) if not isinstance(dim, int)]
    named = before[0].value is not None and before[0].value == after[0].value
    return named or (not rest and math.prod(before[1:]) == math.prod(after[1:]))


def _target(before: ir.Shape | None, after: ir.Shape) -> list[int] | None:
    """`after` as Reshape writes it: 0 where a dim is the input's at the same place, -1 for one other
    unknown.
    """
    target = []
    for axis, dim in enumerate(after):
        same = before is not None and axis < before.rank() and before[axis] == dim
        same = same and not isinstance(dim, int) and dim.value is not None
        same = same or (axis == 0 and _keeps_first(before, after))
        target.append(dim if isinstance(dim, int) else 0 if same else -1)
    return None if target.count(-1) > 1 or 0 in list(after) else target
