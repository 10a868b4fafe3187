"""ReduceMean over all spatial axes is GlobalAveragePool, which integer kernels and quantizers know.

torch's exporter writes adaptive average pooling to 1x1 as ReduceMean, which quantizers leave in float. So do graphs
that take the mean axis by axis, and those from TensorFlow, with the channels of their images last behind a Transpose.
"""

from __future__ import annotations

import onnx_ir as ir

from edgeopt.model.passes.edit import attribute, constant_of, replace_node

__all__ = ["mean_to_pool"]


def mean_to_pool(model: ir.Model) -> int:
    """Rewrite ReduceMean over H, W (or L; D, H, W) of a value of known rank; keepdims 0 adds a Flatten."""
    rewritten = 0
    for node in list(model.graph):
        found = _pooled(node)
        if found is None:
            continue
        source, rank = found, found.shape.rank() if found.shape is not None else 0
        pool = ir.node("GlobalAveragePool", [source])
        if attribute(node, "keepdims", 1):
            replace_node(node, [pool])
        else:
            pooled = pool.outputs[0]
            pooled.name = f"{node.outputs[0].name}.pooled"
            pooled.type = source.type
            pooled.shape = ir.Shape([*list(source.shape or [])[:2], *([1] * (rank - 2))])
            replace_node(node, [pool, ir.node("Flatten", [pooled], attributes={"axis": 1})])
        rewritten += 1
    return rewritten


def _pooled(node: ir.Node) -> ir.Value | None:
    """The value [n, channels, ...] whose mean over all but the first two axes `node` is; None when it is none such."""
    found = _reduced(node)
    if found is None:
        return None
    source, axes = found
    shape = source.shape
    if shape is None or shape.rank() < 3:
        return None
    if axes == set(range(2, shape.rank())):
        return source
    maker = source.producer()
    if maker is None or maker.op_type != "Transpose" or attribute(node, "keepdims", 1):
        return None
    order = attribute(maker, "perm")
    before = maker.inputs[0]
    if order is None or before is None or before.shape is None:
        return None
    reduced = {list(order)[axis] for axis in axes}  # type: ignore[call-overload]
    kept = [axis for axis in order if axis not in reduced]  # type: ignore[attr-defined]
    return before if kept == [0, 1] and reduced == set(range(2, before.shape.rank())) else None


def _reduced(node: ir.Node) -> tuple[ir.Value, set[int]] | None:
    """What a ReduceMean, or one that reads nothing but another one, is the mean of, and over which of its axes."""
    source = node.inputs[0] if node.inputs else None
    if node.op_type != "ReduceMean" or node.domain != "" or source is None or source.shape is None:
        return None
    axes = _axes(node)
    if axes is None:
        return None
    rank = source.shape.rank()
    own = {axis % rank for axis in axes}
    maker = source.producer()
    alone = len(source.uses()) == 1 and not source.is_graph_output()
    before = _reduced(maker) if maker is not None and alone and _keeps(maker) == _keeps(node) else None
    if before is None:
        return source, own
    first, done = before
    if not _keeps(node):  # positions after the axes of the first mean are gone
        left = [axis for axis in range(len(list(first.shape or []))) if axis not in done]
        own = {left[axis] for axis in own}
    return None if own & done else (first, own | done)


def _keeps(node: ir.Node) -> bool:
    return bool(attribute(node, "keepdims", 1))


def _axes(node: ir.Node) -> list[int] | None:
    """Reduced axes, given as an attribute (before opset 18) or as a constant input; None when unknown."""
    listed = attribute(node, "axes")
    if listed is not None:
        return [int(axis) for axis in listed]  # type: ignore[attr-defined]
    given = constant_of(node.inputs[1] if len(node.inputs) > 1 else None)
    return None if given is None else [int(axis) for axis in given.reshape(-1)]
