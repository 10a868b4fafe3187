"""Operators that choose by number: what is chosen from stays whole, the dims beside it pass."""

from __future__ import annotations

import onnx_ir as ir

from edgeopt.prune.labels import Block
from edgeopt.prune.trace import Tracer

__all__ = ["along_axis", "gather_nd", "scatter_nd", "whole"]


def gather_nd(node: ir.Node, tracer: Tracer) -> bool:
    """x [batch..., chosen..., rest...], indices [batch..., places..., k] -> [batch..., places..., rest...].

    The rest passes; the k chosen dims, the batch dims and the places stay.
    """
    x, indices = node.inputs[0], node.inputs[1]
    shape, chosen = tracer.shape(x), tracer.shape(indices)
    if x is None or shape is None or not chosen:
        return False
    batch = node.attributes.get_int("batch_dims", 0)
    first = batch + chosen[-1]
    tracer.fix(x, range(first), f"is chosen from by node {node.name!r} (GatherND)")
    tracer.pin(indices, f"says what node {node.name!r} (GatherND) takes")
    position = {dim: dim - first + len(chosen) - 1 for dim in range(first, len(shape))}
    rest = [block for block in tracer.blocks(x) if block.dims[0] >= first]
    tracer.write(node.outputs[0], [block.moved(position) for block in rest])
    return True


def scatter_nd(node: ir.Node, tracer: Tracer) -> bool:
    """x [chosen..., rest...], indices [places..., k], updates [places..., rest...]: both have the same rest."""
    x, indices, updates = node.inputs
    shape, chosen, new = tracer.shape(x), tracer.shape(indices), tracer.shape(updates)
    if x is None or updates is None or shape is None or not chosen or new is None:
        return False
    where = f"node {node.name!r} (ScatterND)"
    tracer.fix(x, range(chosen[-1]), f"is written to by {where}")
    tracer.fix(updates, range(len(chosen) - 1), f"is written by {where}")
    tracer.pin(indices, f"says where {where} writes")
    tracer.single(x)
    shift = len(new) - len(shape)
    blocks = []
    for dim in range(chosen[-1], len(shape)):
        if shape[dim] > 1:
            ids = tracer.vector(x, dim)
            tracer.ties.unite(ids, tracer.vector(updates, dim + shift), where)
            blocks.append(Block((dim,), ids))
    tracer.write(node.outputs[0], blocks)
    return True


def along_axis(node: ir.Node, tracer: Tracer) -> bool:
    """CumSum, TopK: elements of one dim, in their order or by their size; the others pass."""
    x, shape = node.inputs[0], tracer.shape(node.inputs[0])
    if x is None or shape is None:
        return False
    axis = _axis(node, tracer)
    if axis is None:
        return False
    tracer.fix(x, [axis % len(shape)], f"is counted along by node {node.name!r} ({node.op_type})")
    for output in node.outputs:
        tracer.write(output, tracer.blocks(x))
    return True


def whole(node: ir.Node, tracer: Tracer) -> bool:
    """Operators that read every element at its place (GatherElements, ScatterElements, Trilu): nothing leaves."""
    for value in node.inputs:
        tracer.pin(value, f"is read at fixed places by node {node.name!r} ({node.op_type})")
    return True


def _axis(node: ir.Node, tracer: Tracer) -> int | None:
    """CumSum takes it as an input, which may be computed."""
    if node.op_type != "CumSum":
        return node.attributes.get_int("axis", -1)
    given = tracer.constant(node.inputs[1])
    return None if given is None else int(given.ravel()[0])
