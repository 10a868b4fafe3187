"""ReduceMean over all spatial axes is GlobalAveragePool, which integer kernels and quantizers know.

torch's exporter writes adaptive average pooling to 1x1 as ReduceMean, which quantizers leave in float.
"""

from __future__ import annotations

import onnx_ir as ir

from edgeopt.model.passes.edit import attribute, constant_of, replace_node

__all__ = ["mean_to_pool"]


def mean_to_pool(model: ir.Model) -> int:
    """Rewrite ReduceMean over H, W (or L; D, H, W) of a value of known rank; keepdims 0 adds a Flatten."""
    rewritten = 0
    for node in list(model.graph):
        source = node.inputs[0] if node.inputs else None
        if node.op_type != "ReduceMean" or node.domain != "" or source is None or source.shape is None:
            continue
        rank = source.shape.rank()
        axes = _axes(node)
        if rank < 3 or axes is None or sorted(axis % rank for axis in axes) != list(range(2, rank)):
            continue
        pool = ir.node("GlobalAveragePool", [source])
        if attribute(node, "keepdims", 1):
            replace_node(node, [pool])
        else:
            pooled = pool.outputs[0]
            pooled.name = f"{node.outputs[0].name}.pooled"
            pooled.type = source.type
            pooled.shape = ir.Shape([*list(source.shape)[:2], *([1] * (rank - 2))])
            replace_node(node, [pool, ir.node("Flatten", [pooled], attributes={"axis": 1})])
        rewritten += 1
    return rewritten


def _axes(node: ir.Node) -> list[int] | None:
    """Reduced axes, given as an attribute (before opset 18) or as a constant input; None when unknown."""
    listed = attribute(node, "axes")
    if listed is not None:
        return [int(axis) for axis in listed]  # type: ignore[attr-defined]
    given = constant_of(node.inputs[1] if len(node.inputs) > 1 else None)
    return None if given is None else [int(axis) for axis in given.reshape(-1)]
