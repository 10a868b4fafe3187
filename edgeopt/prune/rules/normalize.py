"""Normalisation, softmax and reductions: some dims carry units through, the others have to stay whole."""

from __future__ import annotations

import onnx_ir as ir

from edgeopt.prune.labels import Block
from edgeopt.prune.trace import Tracer

__all__ = ["batch_normalization", "instance_normalization", "layer_normalization", "reduce", "softmax"]

LINEAR = ("ReduceSum", "ReduceL1", "ReduceL2", "ReduceSumSquare")
"""Reductions that a slice of zeros does not change: their dim may lose slices."""


def batch_normalization(node: ir.Node, tracer: Tracer) -> bool:
    """Channel dim 1 with scale, bias, mean and variance; the other dims pass."""
    x = node.inputs[0]
    if x is None:
        return False
    channels = tracer.vector(x, 1)
    for parameter in node.inputs[1:]:
        if parameter is not None:
            tracer.ties.unite(channels, tracer.vector(parameter, 0), _where(node))
    tracer.write(node.outputs[0], tracer.blocks(x) if tracer.constant(x) is None else [Block((1,), channels)])
    return True


def instance_normalization(node: ir.Node, tracer: Tracer) -> bool:
    """As batch normalisation, with statistics over dims 2 and up, which stay whole."""
    x, shape = node.inputs[0], tracer.shape(node.inputs[0])
    if x is None or shape is None:
        return False
    tracer.fix(x, range(2, len(shape)), f"is normalised over by {_where(node)}")
    return batch_normalization(node, tracer)


def layer_normalization(node: ir.Node, tracer: Tracer) -> bool:
    """One normalised dim may lose channels (the statistics are then over what is kept); several stay whole."""
    x, shape = node.inputs[0], tracer.shape(node.inputs[0])
    if x is None or shape is None:
        return False
    axis = node.attributes.get_int("axis", -1) % len(shape)
    statistics_read = any(output.uses() or output.is_graph_output() for output in node.outputs[1:])
    if axis != len(shape) - 1 or statistics_read:
        return False
    channels = tracer.vector(x, axis)
    for parameter in node.inputs[1:]:
        if parameter is not None:
            own = tracer.shape(parameter)
            if not own or own[-1] != shape[axis]:
                return False
            tracer.ties.unite(channels, tracer.vector(parameter, len(own) - 1), _where(node))
    tracer.write(node.outputs[0], tracer.blocks(x))
    return True


def softmax(node: ir.Node, tracer: Tracer) -> bool:
    """The normalised dims stay whole: a slice of zeros would take its share."""
    x, shape = node.inputs[0], tracer.shape(node.inputs[0])
    if x is None or shape is None:
        return False
    old = (node.version or 13) < 13
    axis = node.attributes.get_int("axis", 1 if old else -1) % len(shape)
    tracer.fix(x, range(axis, len(shape)) if old else [axis], f"is normalised over by {_where(node)}")
    tracer.write(node.outputs[0], tracer.blocks(x))
    return True


def reduce(node: ir.Node, tracer: Tracer) -> bool:
    """Reduced dims stay whole unless the reduction is blind to zeros."""
    x, shape = node.inputs[0], tracer.shape(node.inputs[0])
    if x is None or shape is None:
        return False
    if not tracer.has_labels(x):
        return True
    axes = _axes(node, tracer, len(shape))
    if axes is None:
        return False
    where = f"is reduced over by {_where(node)}"
    if node.op_type in LINEAR:
        tracer.single(x, [dim for dim in range(len(shape)) if dim not in axes])
        contracted = [block for block in tracer.blocks(x) if block.dims[0] in axes]
        blocks = [block for block in tracer.blocks(x) if block not in contracted]
    else:
        tracer.fix(x, axes, where)
        blocks = list(tracer.blocks(x))
    blocks = [block for block in blocks if not set(block.dims) & set(axes)]
    keep = node.attributes.get_int("keepdims", 1) == 1
    left = [dim for dim in range(len(shape)) if keep or dim not in axes]
    position = {dim: index for index, dim in enumerate(left)}
    tracer.write(node.outputs[0], [block.moved(position) for block in blocks])
    return True


def _axes(node: ir.Node, tracer: Tracer, rank: int) -> list[int] | None:
    """Reduced dims from the attribute or the input; None when they are computed."""
    if node.op_type.startswith("Arg"):
        return [node.attributes.get_int("axis", 0) % rank]
    given = list(node.attributes.get_ints("axes", ()))
    if len(node.inputs) > 1 and node.inputs[1] is not None:
        constant = tracer.constant(node.inputs[1])
        if constant is None:
            return None
        given = [int(axis) for axis in constant.ravel()]
    if not given and node.attributes.get_int("noop_with_empty_axes", 0) == 1:
        return []
    return [axis % rank for axis in given] or list(range(rank))


def _where(node: ir.Node) -> str:
    return f"node {node.name!r} ({node.op_type})"
