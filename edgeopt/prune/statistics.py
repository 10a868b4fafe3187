"""Statistics over what is kept: where a masked model must not count the zeros.

Mean and variance of a layer norm that loses channels are over the channels that it keeps, so they are no longer those
of the original with zeros in place of what is gone. In the masked model such a norm reads only what is kept, and its
result is spread out again with zeros between. Group norms that lose the same positions of every group, and means that a
norm written out takes, are treated alike. BatchNormalization has its statistics as weights.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgeopt.prune.groups import Plan

__all__ = ["restrict_statistics"]


def restrict_statistics(graph: ir.Graph, plan: Plan, kept: np.ndarray) -> None:
    """Let every norm and mean of the unpruned `graph` look only at what `kept` leaves of its dims, in place."""
    for node in list(graph):
        if node.op_type in ("LayerNormalization", "RMSNormalization"):
            _norm(node, graph, plan, kept, _rank(node, plan) - 1, [1, 2])
        elif node.op_type == "GroupNormalization":
            _group_norm(node, graph, plan, kept)
        elif node.op_type == "InstanceNormalization":
            _norm(node, graph, plan, kept, 2, [])
        elif node.op_type == "ReduceMean":
            _mean(node, graph, plan, kept)


def _norm(node: ir.Node, graph: ir.Graph, plan: Plan, kept: np.ndarray, axis: int, along: list[int]) -> None:
    """x -> gather kept -> normalise, with the kept of the parameters `along` -> zeros between again."""
    mask = _mask(node.outputs[0], plan, kept, axis)
    x, y = node.inputs[0], node.outputs[0]
    if x is None or mask.all():
        return
    indices = _constant(graph, f"{node.name}.kept", np.flatnonzero(mask))
    inputs = [_gather(graph, node, x, indices, axis), *node.inputs[1:]]
    for position in along:
        parameter = inputs[position] if len(inputs) > position else None
        if parameter is not None:
            inputs[position] = _gather(graph, node, parameter, indices, -1 if axis > 1 else 0)
    inner = ir.node(node.op_type, inputs, dict(node.attributes), version=node.version)
    graph.insert_before(node, inner)
    spread = _spread(graph, node, inner.outputs[0], mask, axis, _rank(node, plan))
    name, y.name = y.name, f"{y.name}.unmasked"
    y.replace_all_uses_with(spread, replace_graph_outputs=True)
    spread.name = name
    graph.remove(node, safe=True)


def _group_norm(node: ir.Node, graph: ir.Graph, plan: Plan, kept: np.ndarray) -> None:
    """Only where positions leave the groups; whole groups take their statistics along."""
    mask = _mask(node.outputs[0], plan, kept, 1)
    groups = node.attributes.get_int("num_groups", 1)
    if not mask.reshape(groups, -1).any(axis=1).all():
        return
    parameters = [value for value in node.inputs[1:] if value is not None and value.const_value is not None]
    per_channel = all(value.const_value.size == mask.size for value in parameters if value.const_value is not None)
    _norm(node, graph, plan, kept, 1, [1, 2] if per_channel else [])


def _mean(node: ir.Node, graph: ir.Graph, plan: Plan, kept: np.ndarray) -> None:
    """Gather the kept along every reduced dim; what stays whole has nothing to gather."""
    x = node.inputs[0]
    if x is None:
        return
    shape = plan.trace.shapes.get(x.name or "", ())
    for axis in _reduced(node, len(shape)):
        mask = _mask(x, plan, kept, axis)
        if not mask.all():
            indices = _constant(graph, f"{node.name}.kept_{axis}", np.flatnonzero(mask))
            source = node.inputs[0]
            assert source is not None
            node.replace_input_with(0, _gather(graph, node, source, indices, axis))


def _reduced(node: ir.Node, rank: int) -> list[int]:
    given = list(node.attributes.get_ints("axes", ()))
    if len(node.inputs) > 1 and node.inputs[1] is not None and node.inputs[1].const_value is not None:
        given = [int(axis) for axis in node.inputs[1].const_value.numpy().ravel()]
    if not given and node.attributes.get_int("noop_with_empty_axes", 0) == 1:
        return []
    return [axis % rank for axis in given] or list(range(rank))


def _rank(node: ir.Node, plan: Plan) -> int:
    return len(plan.trace.shapes.get(node.outputs[0].name or "", ()))


def _mask(value: ir.Value, plan: Plan, kept: np.ndarray, axis: int) -> np.ndarray:
    """What stays of one dim, where it has labels of its own; otherwise all."""
    for block in plan.trace.labels.get(value.name or "", ()):
        if block.dims == (axis,):
            return plan.mask(block.ids, kept)
    return np.ones(1, bool)


def _gather(graph: ir.Graph, node: ir.Node, value: ir.Value, indices: ir.Value, axis: int) -> ir.Value:
    gather = ir.node("Gather", [value, indices], {"axis": axis})
    graph.insert_before(node, gather)
    return gather.outputs[0]


def _spread(graph: ir.Graph, node: ir.Node, value: ir.Value, mask: np.ndarray, axis: int, rank: int) -> ir.Value:
    """A zero appended along `axis`, and then taken for everything that is not kept."""
    pads = np.zeros(2 * rank, np.int64)
    pads[rank + axis] = 1
    padded = ir.node("Pad", [value, _constant(graph, f"{node.name}.pads", pads)])
    graph.insert_before(node, padded)
    places = np.where(mask, np.cumsum(mask) - 1, mask.sum())
    return _gather(graph, node, padded.outputs[0], _constant(graph, f"{node.name}.places", places), axis)


def _constant(graph: ir.Graph, name: str, array: np.ndarray) -> ir.Value:
    value = ir.Value(name=name, const_value=ir.tensor(array, name=name))
    value.shape, value.dtype = ir.Shape(array.shape), ir.DataType.from_numpy(array.dtype)
    graph.register_initializer(value)
    return value
