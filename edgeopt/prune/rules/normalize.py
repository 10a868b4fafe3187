"""Normalisation, softmax and reductions: some dims carry units through, the others have to stay whole."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgeopt.prune.labels import Block, Blocks
from edgeopt.prune.rules.contract import whole_groups
from edgeopt.prune.trace import Tracer

__all__ = [
    "batch_normalization",
    "group_normalization",
    "instance_normalization",
    "layer_normalization",
    "mean_variance_normalization",
    "reduce",
    "softmax",
]

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
    """Statistics over dims 2 and up of each instance of dim 1.

    A group norm that was written as Reshape, InstanceNormalization, Reshape has its groups as instances: they leave
    whole, or the same positions leave every group, as in `group_normalization`.
    """
    x, shape = node.inputs[0], tracer.shape(node.inputs[0])
    if x is None or shape is None:
        return False
    if len(shape) == 3 and _loses_positions(tracer.blocks(x)):
        tracer.fix(x, [1], f"has its channels in groups at {_where(node)}")
        for parameter in node.inputs[1:]:
            tracer.pin(parameter, f"is one number for each group of {_where(node)}")
        tracer.write(node.outputs[0], tracer.blocks(x))
        return True
    tracer.fix(x, range(2, len(shape)), f"is normalised over by {_where(node)}")
    return batch_normalization(node, tracer)


def group_normalization(node: ir.Node, tracer: Tracer) -> bool:
    """Groups of dim 1 leave whole, or (few wide groups) the same positions leave every group.

    In the second case the statistics are over what is kept. Scale and bias are per group up to opset 20, per
    channel since.
    """
    x, shape = node.inputs[0], tracer.shape(node.inputs[0])
    groups = node.attributes.get_int("num_groups", 0)
    if x is None or shape is None or groups < 1:
        return False
    tracer.fix(x, range(2, len(shape)), f"is normalised over by {_where(node)}")
    channels = tracer.vector(x, 1)
    table = channels.reshape(groups, -1)
    whole = whole_groups(groups, table.shape[1])
    tracer.ties.unite(table, table[:, :1] if whole else table[:1], _where(node))
    for parameter in node.inputs[1:]:
        size = (tracer.shape(parameter) or (0,))[0]
        if parameter is None or size not in (shape[1], groups):
            return False
        if size == shape[1]:
            tracer.ties.unite(channels, tracer.vector(parameter, 0), _where(node))
        elif whole:
            tracer.ties.unite(table[:, 0], tracer.vector(parameter, 0), _where(node))
        else:
            tracer.pin(parameter, f"is one number for each group of {_where(node)}")
    tracer.write(node.outputs[0], tracer.blocks(x))
    return True


def mean_variance_normalization(node: ir.Node, tracer: Tracer) -> bool:
    """The normalised dims stay whole."""
    x = node.inputs[0]
    if x is None:
        return False
    tracer.fix(x, node.attributes.get_ints("axes", (0, 2, 3)), f"is normalised over by {_where(node)}")
    tracer.write(node.outputs[0], tracer.blocks(x))
    return True


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
    """Reduced dims stay whole, unless the reduction is blind to zeros or is a normalisation's statistic.

    A mean that a normalisation written out takes (of x to centre it, of squares, of norms to divide them by it; of a
    weight to standardise it) is then one over what is kept, as LayerNormalization's is.
    """
    x, shape = node.inputs[0], tracer.shape(node.inputs[0])
    if x is None or shape is None:
        return False
    if not tracer.has_labels(x):
        return True
    axes = _axes(node, tracer, len(shape))
    if axes is None:
        return False
    where = f"is reduced over by {_where(node)}"
    if node.op_type in LINEAR or _is_statistic(node, tracer):
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


def _is_statistic(node: ir.Node, tracer: Tracer) -> bool:
    """A mean of weights, a mean that is taken off its own argument or divides it, or a mean of squares."""
    x = node.inputs[0]
    if node.op_type != "ReduceMean" or x is None:
        return False
    centred = {use.node.inputs[0] for value in node.outputs for use in value.uses() if use.node.op_type == "Sub"}
    return tracer.is_weight(x) or x in centred or _divides(node, x, tracer) or _is_square(x.producer(), tracer)


def _divides(node: ir.Node, x: ir.Value, tracer: Tracer) -> bool:
    """x / (mean + epsilon): ConvNeXt V2's global response normalisation does so with the norms of its channels."""
    reading = [use.node for value in node.outputs for use in value.uses()]
    safe = [n for n in reading if n.op_type == "Add" and any(tracer.constant(v) is not None for v in n.inputs)]
    reading += [use.node for n in safe for use in n.outputs[0].uses()]
    return any(n.op_type == "Div" and n.inputs[0] is x for n in reading)


def _is_square(node: ir.Node | None, tracer: Tracer) -> bool:
    if node is None or node.op_type not in ("Mul", "Pow"):
        return False
    exponent = tracer.constant(node.inputs[1])
    return node.inputs[0] is node.inputs[1] or (
        node.op_type == "Pow" and exponent is not None and exponent.size == 1 and float(exponent.ravel()[0]) == 2
    )


def _loses_positions(blocks: Blocks) -> bool:
    """Whether instances [N, groups, positions] hold more channels each than there are instances."""
    for block in blocks:
        if block.dims == (2,):
            return True
        if set(block.dims) == {1, 2}:
            table = block.ids if block.dims == (1, 2) else block.ids.T
            return not whole_groups(len(table), len(np.unique(table[0])))
    return False


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
