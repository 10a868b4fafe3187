"""Operators with weights that contract one dim and produce another: Conv, ConvTranspose, Gemm, MatMul."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgeopt.prune.labels import Block
from edgeopt.prune.trace import Tracer

__all__ = ["conv", "conv_transpose", "gemm", "matmul"]


def conv(node: ir.Node, tracer: Tracer) -> bool:
    """Weight [O, I/group, kernel...]."""
    x, weight = node.inputs[0], node.inputs[1]
    kernel = tracer.shape(weight)
    if x is None or weight is None or kernel is None:
        return False
    where = _where(node)
    tracer.fix(x, _slid_over(node, kernel), f"is no channel at {where}")
    tracer.fix(weight, range(2, len(kernel)), f"is the kernel of {where}")
    groups = node.attributes.get_int("group", 1)
    entering = np.broadcast_to(tracer.vector(x, 1), kernel[1] * groups)
    leaving = tracer.vector(weight, 0)
    if groups == 1:
        tracer.ties.unite(entering, tracer.vector(weight, 1), where)
    elif whole_groups(groups, kernel[1]):
        tracer.fix(weight, [1], f"is the width of a group of {where}")
        tie_groups(tracer, entering, leaving, groups, where)
    else:
        tie_positions(tracer, entering, tracer.vector(weight, 1), groups, where)
        tie_positions(tracer, leaving, leaving.reshape(groups, -1)[0], groups, where)
    return _finish(node, tracer, leaving, 0)


def conv_transpose(node: ir.Node, tracer: Tracer) -> bool:
    """Weight [I, O/group, kernel...]."""
    x, weight = node.inputs[0], node.inputs[1]
    kernel = tracer.shape(weight)
    if x is None or weight is None or kernel is None:
        return False
    where = _where(node)
    tracer.fix(x, range(2, len(kernel)), f"is no channel at {where}")
    tracer.fix(weight, range(2, len(kernel)), f"is the kernel of {where}")
    groups = node.attributes.get_int("group", 1)
    entering = tracer.vector(weight, 0)
    tracer.ties.unite(tracer.vector(x, 1), entering, where)
    if groups == 1:
        leaving = tracer.vector(weight, 1)
    elif whole_groups(groups, kernel[0] // groups):
        tracer.fix(weight, [1], f"is the width of a group of {where}")
        leaving = np.repeat(entering.reshape(groups, -1)[:, 0], kernel[1])
        tie_groups(tracer, entering, leaving, groups, where)
    else:
        tie_positions(tracer, entering, entering.reshape(groups, -1)[0], groups, where)
        leaving = np.tile(tracer.vector(weight, 1), groups)
    return _finish(node, tracer, leaving, 1)


def gemm(node: ir.Node, tracer: Tracer) -> bool:
    """A [M, K] x B [K, N] (or [N, K] with transB) + C [N]."""
    a, b = node.inputs[0], node.inputs[1]
    if a is None or b is None or node.attributes.get_int("transA", 0) != 0:
        return False
    where = _where(node)
    out_axis = 0 if node.attributes.get_int("transB", 0) else 1
    tracer.ties.unite(tracer.vector(a, 1), tracer.vector(b, 1 - out_axis), where)
    leaving = tracer.vector(b, out_axis)
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    shape = tracer.shape(bias)
    if bias is not None and shape:
        tracer.fix(bias, range(len(shape) - 1), f"is no channel at {where}")
        if shape[-1] > 1:
            tracer.ties.unite(leaving, tracer.vector(bias, len(shape) - 1), where)
    tracer.note_produced(b, [out_axis])
    rows = [block for block in tracer.blocks(a) if block.dims == (0,)]
    tracer.write(node.outputs[0], [*rows, Block((1,), leaving)])
    return True


def matmul(node: ir.Node, tracer: Tracer) -> bool:
    """A [..., M, K] x B [..., K, N]; either side may be a weight, or neither (attention)."""
    a, b = node.inputs[0], node.inputs[1]
    left, right = tracer.shape(a), tracer.shape(b)
    if a is None or b is None or left is None or right is None or min(len(left), len(right)) < 2:
        return False
    where, rank = _where(node), max(len(left), len(right))
    tracer.single(a, range(len(left) - 2))
    tracer.single(b, range(len(right) - 2))
    tracer.ties.unite(tracer.vector(a, len(left) - 1), tracer.vector(b, len(right) - 2), where)
    blocks = [
        Block((rank - 2,), tracer.vector(a, len(left) - 2)),
        Block((rank - 1,), tracer.vector(b, len(right) - 1)),
    ]
    for dim in range(rank - 2):
        sides = [(a, dim - rank + len(left), left), (b, dim - rank + len(right), right)]
        vectors = [tracer.vector(v, own) for v, own, shape in sides if own >= 0 and shape[own] > 1]
        if vectors:
            tracer.ties.unite(vectors[0], vectors[-1], where)
            blocks.append(Block((dim,), vectors[0]))
    tracer.note_produced(a, [len(left) - 2])
    tracer.note_produced(b, [len(right) - 1])
    tracer.write(node.outputs[0], blocks)
    return True


def whole_groups(groups: int, width: int) -> bool:
    """Whether a grouped convolution loses whole groups, or the same positions of every group.

    Whichever leaves more units to choose from; a depthwise convolution is the extreme of the first.
    """
    return groups >= width


def tie_groups(tracer: Tracer, entering: np.ndarray, leaving: np.ndarray, groups: int, where: str) -> None:
    """All channels that enter and leave one group are one unit."""
    first = entering.reshape(groups, -1)[:, :1]
    tracer.ties.unite(entering.reshape(groups, -1), first, where)
    tracer.ties.unite(leaving.reshape(groups, -1), first, where)


def tie_positions(tracer: Tracer, channels: np.ndarray, position: np.ndarray, groups: int, where: str) -> None:
    """Position j of every group is one unit."""
    tracer.ties.unite(channels.reshape(groups, -1), position, where)


def _finish(node: ir.Node, tracer: Tracer, leaving: np.ndarray, axis: int) -> bool:
    """Bias and output of a convolution."""
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if bias is not None:
        tracer.ties.unite(leaving, tracer.vector(bias, 0), _where(node))
    tracer.note_produced(node.inputs[1], [axis])
    x = node.inputs[0]
    others = [block for block in tracer.blocks(x) if 1 not in block.dims] if x is not None else []
    tracer.write(node.outputs[0], [Block((1,), leaving), *others])
    return True


def _slid_over(node: ir.Node, kernel: tuple[int, ...]) -> list[int]:
    """Dims of the input along which the kernel does more than look at each element alone."""
    spatial = len(kernel) - 2
    strides = node.attributes.get_ints("strides", (1,) * spatial)
    pads = node.attributes.get_ints("pads", (0,) * 2 * spatial)
    return [
        dim + 2
        for dim in range(spatial)
        if (kernel[dim + 2], strides[dim], pads[dim], pads[dim + spatial]) != (1, 1, 0, 0)
    ]


def _where(node: ir.Node) -> str:
    return f"node {node.name!r} ({node.op_type})"
