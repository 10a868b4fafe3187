"""Reshape, Flatten, Squeeze and Unsqueeze: executed on the labels, by groups of dims with equal products."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgeopt.prune.labels import Block, Blocks, place
from edgeopt.prune.trace import Tracer

__all__ = ["dim_groups", "reshape"]

Dims = tuple[int, ...]


def reshape(node: ir.Node, tracer: Tracer) -> bool:
    x, before, after = node.inputs[0], tracer.shape(node.inputs[0]), tracer.shape(node.outputs[0])
    if x is None:
        return False
    if not tracer.has_labels(x):
        return True
    if before is None or after is None:
        return False
    done: list[Block] = []
    for sources, targets in _merged(dim_groups(before, after), tracer.blocks(x)):
        inside = [block for block in tracer.blocks(x) if set(block.dims) <= set(sources)]
        if [before[dim] for dim in sources] == [after[dim] for dim in targets]:
            position = dict(zip(sources, targets, strict=True))
            done += [block.moved(position) for block in inside]
            continue
        if len(inside) > 1:
            reason = f"is merged with other channels by node {node.name!r} ({node.op_type})"
            tracer.fix(x, [dim for block in inside[1:] for dim in block.dims], reason)
        if inside:
            done += _execute(inside[0], sources, targets, before, after)
    tracer.write(node.outputs[0], done)
    return True


def dim_groups(before: Dims, after: Dims) -> list[tuple[Dims, Dims]]:
    """The finest pairs of dims (of the input, of the output) whose products agree; dims of length one stand alone."""
    groups: list[tuple[Dims, Dims]] = []
    i = j = 0
    while i < len(before) or j < len(after):
        first, second = i, j
        left, right = 1, 1
        if i < len(before) and j < len(after) and before[i] != after[j] and 1 in (before[i], after[j]):
            i, j = i + (before[i] == 1), j + (before[i] != 1)
        else:
            if i < len(before):
                left, i = before[i], i + 1
            if j < len(after):
                right, j = after[j], j + 1
            while left != right:
                if left < right and i < len(before):
                    left, i = left * before[i], i + 1
                elif j < len(after):
                    right, j = right * after[j], j + 1
                else:
                    return [(tuple(range(len(before))), tuple(range(len(after))))]
        groups.append((tuple(range(first, i)), tuple(range(second, j))))
    return groups


def _merged(groups: list[tuple[Dims, Dims]], blocks: Blocks) -> list[tuple[Dims, Dims]]:
    """Groups joined where a joint block lies across them."""
    merged: list[tuple[Dims, Dims]] = []
    for sources, targets in groups:
        merged.append((sources, targets))
        while len(merged) > 1 and _straddles(blocks, merged[-2][0], merged[-1][0]):
            right, left = merged.pop(), merged.pop()
            merged.append((left[0] + right[0], left[1] + right[1]))
    for block in blocks:
        touched = [group for group in merged if set(group[0]) & set(block.dims)]
        if len(touched) > 1:
            low, high = merged.index(touched[0]), merged.index(touched[-1])
            joined = merged[low : high + 1]
            whole = (sum((g[0] for g in joined), ()), sum((g[1] for g in joined), ()))
            merged[low : high + 1] = [whole]
    return merged


def _straddles(blocks: Blocks, left: Dims, right: Dims) -> bool:
    return any(set(block.dims) & set(left) and set(block.dims) & set(right) for block in blocks)


def _execute(block: Block, sources: Dims, targets: Dims, before: Dims, after: Dims) -> list[Block]:
    """Reshape the labels themselves; dims of the result along which they do not vary drop out."""
    ids = place(block, sources, tuple(before[dim] for dim in sources))
    ids = ids.reshape([after[dim] for dim in targets])
    dims = list(targets)
    for axis in reversed(range(len(dims))):
        first = np.take(ids, [0], axis)
        if (ids == first).all():
            ids, _ = first.squeeze(axis), dims.pop(axis)
    return [Block(tuple(dims), np.ascontiguousarray(ids))] if dims else []
