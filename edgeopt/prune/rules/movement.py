"""Operators that only move data: they are executed on the labels."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgeopt.prune.labels import Block, select
from edgeopt.prune.trace import Tracer

__all__ = ["concat", "expand", "gather", "nothing", "pad", "slice_", "slice_bounds", "split", "tile", "transpose"]


def nothing(node: ir.Node, tracer: Tracer) -> bool:
    """Shapes and their arithmetic carry no channels and pin none."""
    return True


def transpose(node: ir.Node, tracer: Tracer) -> bool:
    x, shape = node.inputs[0], tracer.shape(node.inputs[0])
    if x is None or shape is None:
        return False
    order = list(node.attributes.get_ints("perm", tuple(reversed(range(len(shape))))))
    position = {dim: index for index, dim in enumerate(order)}
    tracer.write(node.outputs[0], [block.moved(position) for block in tracer.blocks(x)])
    return True


def concat(node: ir.Node, tracer: Tracer) -> bool:
    values = [value for value in node.inputs if value is not None]
    if not any(tracer.has_labels(value) for value in values):
        return True
    shapes = [tracer.shape(value) for value in values]
    first = shapes[0]
    if first is None or any(shape is None for shape in shapes):
        return False
    axis = node.attributes.get_int("axis", 0) % len(first)
    where = f"node {node.name!r} (Concat)"
    blocks = [Block((axis,), np.concatenate([tracer.vector(value, axis) for value in values]))]
    for dim in range(len(first)):
        if dim != axis and first[dim] > 1:
            vectors = [tracer.vector(value, dim) for value in values]
            for vector in vectors[1:]:
                tracer.ties.unite(vectors[0], vector, where)
            blocks.append(Block((dim,), vectors[0]))
    tracer.write(node.outputs[0], blocks)
    return True


def split(node: ir.Node, tracer: Tracer) -> bool:
    """The pieces' lengths are rewritten afterwards (`surgery`)."""
    x, shape = node.inputs[0], tracer.shape(node.inputs[0])
    pieces = [tracer.shape(output) for output in node.outputs]
    if x is None or shape is None or any(piece is None for piece in pieces):
        return False
    axis, start = node.attributes.get_int("axis", 0) % len(shape), 0
    for output, piece in zip(node.outputs, pieces, strict=True):
        length = (piece or ())[axis]
        tracer.write(output, select(tracer.blocks(x), axis, np.arange(start, start + length)))
        start += length
    return True


def slice_(node: ir.Node, tracer: Tracer) -> bool:
    """A dim that keeps its labels may be cut only in steps of one; other steps pin it."""
    x, shape = node.inputs[0], tracer.shape(node.inputs[0])
    if x is None or shape is None:
        return False
    if not tracer.has_labels(x):
        return True
    bounds = slice_bounds(node, shape, tracer)
    if bounds is None:
        return _computed_slice(node, x, tracer)
    for axis, span in bounds.items():
        if span.step not in (None, 1):
            tracer.fix(x, [axis], f"is sliced in steps by node {node.name!r}")
    blocks = tracer.blocks(x)
    for axis, span in bounds.items():
        blocks = select(blocks, axis, np.arange(shape[axis])[span])
    tracer.write(node.outputs[0], blocks)
    return True


def _computed_slice(node: ir.Node, x: ir.Value, tracer: Tracer) -> bool:
    """Bounds that are computed: the sliced dims stay whole, the others pass."""
    axes = tracer.constant(node.inputs[3]) if len(node.inputs) > 3 else None
    rank = len(tracer.shape(x) or ())
    if axes is None or not rank:
        return False
    tracer.fix(x, [int(axis) % rank for axis in axes.ravel()], f"is sliced at computed places by node {node.name!r}")
    tracer.write(node.outputs[0], tracer.blocks(x))
    return True


def slice_bounds(node: ir.Node, shape: tuple[int, ...], tracer: Tracer) -> dict[int, slice] | None:
    """Axis -> slice of a Slice node, from attributes (opset below 10) or constant inputs; None when computed."""
    fields: list[list[int] | None] = []
    for index, name in enumerate(("starts", "ends", "axes", "steps"), 1):
        if name in node.attributes:
            fields.append(list(node.attributes.get_ints(name, ())))
        elif len(node.inputs) > index and node.inputs[index] is not None:
            constant = tracer.constant(node.inputs[index])
            if constant is None:
                return None
            fields.append([int(number) for number in constant.ravel()])
        else:
            fields.append(None)
    starts, ends, axes, steps = fields
    if starts is None or ends is None:
        return None
    axes = axes if axes is not None else list(range(len(starts)))
    steps = steps if steps is not None else [1] * len(starts)
    spans = {}
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        stop = None if step < 0 and end <= -shape[axis] - 1 else end
        spans[axis % len(shape)] = slice(start, stop, step)
    return spans


def gather(node: ir.Node, tracer: Tracer) -> bool:
    """Constant indices move labels; computed ones (an embedding) pin the dim they choose from."""
    x, shape = node.inputs[0], tracer.shape(node.inputs[0])
    if x is None or shape is None:
        return False
    if not tracer.has_labels(x):
        return True
    axis = node.attributes.get_int("axis", 0) % len(shape)
    indices = tracer.constant(node.inputs[1])
    chosen = tracer.shape(node.inputs[1])
    if chosen is None:
        return False
    if indices is None or indices.ndim > 1:
        tracer.fix(x, [axis], f"is chosen from by node {node.name!r} (Gather)")
        blocks = tracer.blocks(x)
    elif indices.ndim == 1:
        tracer.write(node.outputs[0], select(tracer.blocks(x), axis, indices % shape[axis]))
        return True
    else:
        _pin_alone(x, axis, tracer, f"one index is taken from it by node {node.name!r} (Gather)")
        taken = select(tracer.blocks(x), axis, np.array([int(indices) % shape[axis]]))
        blocks = tuple(_squeezed(block, axis) for block in taken)
    position = {dim: dim if dim < axis else dim + len(chosen) - 1 for dim in range(len(shape))}
    tracer.write(node.outputs[0], [block.moved(position) for block in blocks if block.dims != (axis,)])
    return True


def pad(node: ir.Node, tracer: Tracer) -> bool:
    """Padding along a dim that carries channels adds labels of its own, whose amounts `surgery` rewrites."""
    x, shape = node.inputs[0], tracer.shape(node.inputs[0])
    if x is None or shape is None:
        return False
    if not tracer.has_labels(x):
        return True
    amounts = pad_amounts(node, len(shape), tracer)
    if amounts is None:
        return False
    padded = [dim for dim, (before, after) in amounts.items() if before or after]
    if min((amount for pair in amounts.values() for amount in pair), default=0) < 0:
        return False
    if node.attributes.get_string("mode", "constant") != "constant":
        tracer.fix(x, padded, f"is padded with its own values by node {node.name!r}")
    blocks = []
    for block in tracer.single(x, [dim for dim in range(len(shape)) if dim not in padded]):
        before, after = amounts.get(block.dims[0], (0, 0))
        ids = [tracer.ties.fresh(before), block.ids, tracer.ties.fresh(after)]
        blocks.append(Block(block.dims, np.concatenate(ids)))
    tracer.write(node.outputs[0], blocks)
    return True


def pad_amounts(node: ir.Node, rank: int, tracer: Tracer) -> dict[int, tuple[int, int]] | None:
    """Dim -> (before, after), from the attribute (opset below 11) or constant inputs; None when computed."""
    if len(node.inputs) > 1:
        constant = tracer.constant(node.inputs[1])
        if constant is None:
            return None
        pads = [int(number) for number in constant.ravel()]
    else:
        pads = [int(number) for number in node.attributes.get_ints("pads", ())]
    axes = list(range(rank))
    if len(node.inputs) > 3 and node.inputs[3] is not None:
        given = tracer.constant(node.inputs[3])
        if given is None:
            return None
        axes = [int(axis) % rank for axis in given.ravel()]
    half = len(pads) // 2
    return dict(zip(axes, zip(pads[:half], pads[half:], strict=True), strict=True))


def expand(node: ir.Node, tracer: Tracer) -> bool:
    """Dims that were already there pass. Repetitions of numbers leave with whatever they meet: nothing else holds
    them, and `rewrite` writes the shape anew."""
    x, shape, result = node.inputs[0], tracer.shape(node.inputs[0]), tracer.shape(node.outputs[0])
    if x is None or shape is None:
        return False
    numbers = x.dtype is not None and x.dtype.is_floating_point()
    if not tracer.has_labels(x) and not (numbers and result):
        return True
    if result is None:
        return False
    shift = len(result) - len(shape)
    position = {dim: dim + shift for dim in range(len(shape))}
    repeated = [dim for dim in range(1, len(result)) if dim < shift or (shape[dim - shift] == 1 and result[dim] > 1)]
    fresh = [Block((dim,), tracer.ties.fresh(result[dim])) for dim in repeated]
    tracer.write(node.outputs[0], [*(block.moved(position) for block in tracer.blocks(x)), *fresh])
    return True


def tile(node: ir.Node, tracer: Tracer) -> bool:
    """Every copy has the labels of the original, so the number of copies stays right; dims of length one are fixed."""
    x, shape, result = node.inputs[0], tracer.shape(node.inputs[0]), tracer.shape(node.outputs[0])
    if x is None or shape is None:
        return False
    if not tracer.has_labels(x):
        return True
    if result is None:
        return False
    copies = [after // before for before, after in zip(shape, result, strict=True)]
    blocks = tracer.blocks(x)
    tracer.write(node.outputs[0], [Block(b.dims, np.tile(b.ids, [copies[dim] for dim in b.dims])) for b in blocks])
    return True


def _pin_alone(x: ir.Value, axis: int, tracer: Tracer, reason: str) -> None:
    """Pin a dim that shares its labels with no other: one index of it is asked for by number."""
    for block in tracer.blocks(x):
        if block.dims == (axis,):
            tracer.ties.pin(block.ids, reason)


def _squeezed(block: Block, dim: int) -> Block:
    if dim not in block.dims or len(block.dims) == 1:
        return block
    axis = block.axis(dim)
    return Block(tuple(other for other in block.dims if other != dim), block.ids.squeeze(axis))
