"""Operators on images: pooling, resizing, and blocks of space that become channels and back."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgeopt.prune.labels import Block
from edgeopt.prune.trace import Tracer

__all__ = ["depth_to_space", "pool", "resize", "space_to_depth"]


def pool(node: ir.Node, tracer: Tracer) -> bool:
    """Batch and channels pass; a window slides over the other dims, which stay whole."""
    x, shape = node.inputs[0], tracer.shape(node.inputs[0])
    if x is None or shape is None:
        return False
    tracer.fix(x, range(2, len(shape)), f"is pooled over by node {node.name!r}")
    for output in node.outputs:
        tracer.write(output, tracer.blocks(x))
    return True


def resize(node: ir.Node, tracer: Tracer) -> bool:
    """Dims that keep their length pass; resized ones stay whole."""
    x, before, after = node.inputs[0], tracer.shape(node.inputs[0]), tracer.shape(node.outputs[0])
    if x is None or before is None or after is None:
        return False
    changed = [dim for dim in range(len(before)) if before[dim] != after[dim]]
    tracer.fix(x, changed, f"is resized by node {node.name!r}")
    tracer.write(node.outputs[0], tracer.blocks(x))
    return True


def depth_to_space(node: ir.Node, tracer: Tracer) -> bool:
    """The channels that become one block of space leave together."""
    x, shape = node.inputs[0], tracer.shape(node.inputs[0])
    if x is None or shape is None:
        return False
    square = node.attributes.get_int("blocksize", 1) ** 2
    channels = tracer.vector(x, 1)
    column_row = node.attributes.get_string("mode", "DCR") == "CRD"
    blocks = channels.reshape(-1, square).T if column_row else channels.reshape(square, -1)
    tracer.ties.unite(blocks, blocks[:1], f"node {node.name!r} (DepthToSpace)")
    tracer.fix(x, [0, 2, 3], f"is no channel at node {node.name!r}")
    tracer.write(node.outputs[0], [Block((1,), blocks[0])])
    return True


def space_to_depth(node: ir.Node, tracer: Tracer) -> bool:
    """Every channel becomes blocksize squared ones, a whole copy of the channel dim apart."""
    x, shape = node.inputs[0], tracer.shape(node.inputs[0])
    if x is None or shape is None:
        return False
    square = node.attributes.get_int("blocksize", 1) ** 2
    tracer.fix(x, [0, 2, 3], f"is no channel at node {node.name!r}")
    tracer.write(node.outputs[0], [Block((1,), np.tile(tracer.vector(x, 1), square))])
    return True
