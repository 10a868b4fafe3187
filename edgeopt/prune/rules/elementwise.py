"""Operators that treat every element alike: what is united is what they add, multiply or compare."""

from __future__ import annotations

import onnx_ir as ir

from edgeopt.prune.labels import Block, Blocks
from edgeopt.prune.trace import Tracer

__all__ = ["broadcast", "unary"]


def unary(node: ir.Node, tracer: Tracer) -> bool:
    """The first input's labels pass (Clip's bounds and the like are scalars)."""
    x = node.inputs[0]
    if x is None:
        return False
    blocks = tracer.blocks(x)
    for output in node.outputs:
        tracer.write(output, blocks)
    return True


def broadcast(node: ir.Node, tracer: Tracer) -> bool:
    """Operands aligned at the right; a dim of length one puts no condition on the others."""
    values = [value for value in node.inputs if value is not None]
    if not any(tracer.has_labels(value) for value in values):
        return True
    shapes = [tracer.shape(value) for value in values]
    if any(shape is None for shape in shapes):
        return False
    rank = max(len(shape or ()) for shape in shapes)
    operands = [(value, rank - len(shape or ())) for value, shape in zip(values, shapes, strict=True)]
    where = f"node {node.name!r} ({node.op_type})"
    joint = _common_joint(operands, tracer)
    if not joint:
        _make_single(operands, tracer)
    done: list[Block] = [joint[0]] if joint else []
    for other in joint[1:]:
        order = [other.dims.index(dim) for dim in joint[0].dims]
        tracer.ties.unite(joint[0].ids, other.ids.transpose(order), where)
    taken = {dim for block in done for dim in block.dims}
    for dim in range(rank):
        if dim not in taken:
            done += _unite_dim(operands, dim, tracer, where)
    tracer.write(node.outputs[0], done)
    return True


def _unite_dim(operands: list[tuple[ir.Value, int]], dim: int, tracer: Tracer, where: str) -> list[Block]:
    """Unite what the operands have along one dim of the result."""
    vectors = []
    for value, shift in operands:
        shape = tracer.shape(value) or ()
        if dim >= shift and shape[dim - shift] > 1:
            vectors.append(tracer.vector(value, dim - shift))
    for vector in vectors[1:]:
        tracer.ties.unite(vectors[0], vector, where)
    return [Block((dim,), vectors[0])] if vectors else []


def _aligned(value: ir.Value, shift: int, tracer: Tracer) -> Blocks:
    return tuple(Block(tuple(dim + shift for dim in block.dims), block.ids) for block in tracer.blocks(value))


def _activations(operands: list[tuple[ir.Value, int]], tracer: Tracer) -> list[tuple[ir.Value, int]]:
    return [(value, shift) for value, shift in operands if not tracer.is_weight(value)]


def _common_joint(operands: list[tuple[ir.Value, int]], tracer: Tracer) -> list[Block]:
    """The one joint block that all operands share, if it may stay joint; otherwise nothing."""
    found: list[Block] = []
    for value, shift in operands:
        if not tracer.shape(value) or all(size == 1 for size in tracer.shape(value) or ()):
            continue
        joint = [block for block in _aligned(value, shift, tracer) if len(block.dims) > 1]
        if len(joint) != 1 or (found and set(joint[0].dims) != set(found[0].dims)):
            return []
        found += joint
    return found


def _make_single(operands: list[tuple[ir.Value, int]], tracer: Tracer) -> None:
    """Reduce joint blocks to the dim along which another activation has labels, or to the outermost.

    Weights put no condition: of heads and the width of one, a table of positions for each width leaves the heads free.
    """
    activations = _activations(operands, tracer)
    labelled = [
        block.dims[0]
        for value, shift in activations
        for block in _aligned(value, shift, tracer)
        if len(block.dims) == 1
    ]
    for value, shift in activations:
        tracer.single(value, [dim - shift for dim in labelled])
