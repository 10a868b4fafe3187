"""Operators on images: pooling, resizing, and blocks of space that become channels and back."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgeopt.prune.labels import Block
from edgeopt.prune.trace import Tracer

__all__ = ["col2im", "depth_to_space", "grid_sample", "pool", "resize", "roi_align", "space_to_depth"]


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


def col2im(node: ir.Node, tracer: Tracer) -> bool:
    """[N, C * block, L] -> [N, C, image...]: the entries of a channel's block leave together."""
    x, shape, result = node.inputs[0], tracer.shape(node.inputs[0]), tracer.shape(node.outputs[0])
    if x is None or shape is None or result is None:
        return False
    where = f"node {node.name!r} (Col2Im)"
    tracer.fix(x, [2], f"is no channel at {where}")
    channels = tracer.vector(x, 1).reshape(result[1], -1)
    tracer.ties.unite(channels, channels[:, :1], where)
    rows = [block for block in tracer.blocks(x) if block.dims == (0,)]
    tracer.write(node.outputs[0], [*rows, Block((1,), channels[:, 0])])
    return True


def grid_sample(node: ir.Node, tracer: Tracer) -> bool:
    """Channels are sampled alike, at places that stay as they are."""
    x, grid, shape = node.inputs[0], node.inputs[1], tracer.shape(node.inputs[0])
    if x is None or grid is None or shape is None:
        return False
    where = f"node {node.name!r} (GridSample)"
    tracer.fix(x, [0, *range(2, len(shape))], f"is no channel at {where}")
    tracer.pin(grid, f"says where {where} samples")
    tracer.write(node.outputs[0], tracer.blocks(x))
    return True


def roi_align(node: ir.Node, tracer: Tracer) -> bool:
    """[N, C, H, W] -> [boxes, C, h, w]: channels are pooled alike, in boxes that stay as they are."""
    x, boxes = node.inputs[0], node.inputs[1]
    if x is None or boxes is None:
        return False
    where = f"node {node.name!r} ({node.op_type})"
    tracer.fix(x, [0, 2, 3], f"is no channel at {where}")
    tracer.pin(boxes, f"says where {where} samples")
    tracer.write(node.outputs[0], tracer.blocks(x))
    return True
