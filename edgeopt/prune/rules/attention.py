"""The Attention operator (opset 23): softmax(scale * q k^T) v for each head."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgeopt.prune.labels import Block
from edgeopt.prune.trace import Tracer

__all__ = ["attention"]


def attention(node: ir.Node, tracer: Tracer) -> bool:
    """q [N, heads, L, D], k [N, kv heads, S, D], v [N, kv heads, S, E] -> [N, heads, L, E].

    Heads leave together with their keys and values. D is contracted and E passes: either may lose channels,
    `rewrite` writes the scale of the original down. In the form with three dims, [N, L, heads * D], whole heads
    leave. A cache of keys and values, and outputs besides the first, are not covered.
    """
    q, k, v = node.inputs[:3]
    rank = len(tracer.shape(q) or ())
    if q is None or k is None or v is None or rank not in (3, 4) or _has_cache(node):
        return False
    where = f"node {node.name!r} (Attention)"
    if rank == 3:
        for value in node.inputs[3:]:
            tracer.pin(value, f"is the mask of {where}")
        return _joined_heads(node, tracer, (q, k, v), where)
    for value in (q, k, v):
        tracer.fix(value, [2], f"is attended over by {where}")
        tracer.single(value, [1])
    heads, kept, read = (tracer.vector(value, 1) for value in (q, k, v))
    tracer.ties.unite(kept, read, where)
    tracer.ties.unite(heads.reshape(len(kept), -1), kept[:, None], where)
    tracer.ties.unite(tracer.vector(q, 3), tracer.vector(k, 3), where)
    _mask(node, tracer, heads, where)
    tracer.write(node.outputs[0], [Block((1,), heads), Block((3,), tracer.vector(v, 3))])
    return True


def _joined_heads(node: ir.Node, tracer: Tracer, values: tuple[ir.Value, ...], where: str) -> bool:
    """The last dim is heads by channels, the heads' numbers are attributes."""
    many, few = node.attributes.get_int("q_num_heads", 0), node.attributes.get_int("kv_num_heads", 0)
    if not many or not few:
        return False
    vectors = []
    for value, heads in zip(values, (many, few, few), strict=True):
        tracer.fix(value, [1], f"is attended over by {where}")
        vectors.append(tracer.vector(value, 2).reshape(heads, -1))
    first = np.repeat(vectors[1][:, 0], many // few)
    for vector in vectors:
        tracer.ties.unite(vector, (first if len(vector) == many else vectors[1][:, 0])[:, None], where)
    width = vectors[2].shape[1]
    tracer.write(node.outputs[0], [Block((2,), np.repeat(vectors[0][:, 0], width))])
    return True


def _mask(node: ir.Node, tracer: Tracer, heads: np.ndarray, where: str) -> None:
    """Aligned at the right with [N, heads, L, S]; heads of its own leave with the others."""
    value = node.inputs[3] if len(node.inputs) > 3 else None
    shape = tracer.shape(value) or ()
    if value is None:
        return
    own = len(shape) - 3
    tracer.fix(value, [dim for dim in range(len(shape)) if dim != own], f"is the mask of {where}")
    if own >= 0 and shape[own] > 1:
        tracer.ties.unite(heads, tracer.vector(value, own), where)


def _has_cache(node: ir.Node) -> bool:
    return any(value is not None for value in node.inputs[4:]) or any(
        output.uses() or output.is_graph_output() for output in node.outputs[1:]
    )
