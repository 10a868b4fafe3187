"""Reshape targets that exporters compute from the batch size become constants with a -1.

`Concat(batch, 512)` as the shape of a Reshape says no more than `[-1, 512]`: Reshape keeps the element count, so
one unknown entry is implied by the others. Without the Shape/Gather/Concat chain a graph can be read, pruned and
compiled for a fixed batch.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as passes

__all__ = ["static_reshapes"]


def static_reshapes(graph: ir.Model) -> None:
    """Rewrite in place every Reshape whose target is a Concat with exactly one unknown scalar."""
    for node in graph.graph:
        if node.op_type != "Reshape" or len(node.inputs) < 2 or node.inputs[1] is None:
            continue
        target = _implied(node.inputs[1])
        if target is None:
            continue
        name = f"{node.outputs[0].name}_shape"
        constant = ir.Value(name=name, const_value=ir.tensor(target, name=name))
        constant.shape, constant.dtype = ir.Shape([len(target)]), ir.DataType.INT64
        graph.graph.register_initializer(constant)
        node.replace_input_with(1, constant)
        node.attributes.pop("allowzero", None)
    passes.RemoveUnusedNodesPass()(graph)


def _implied(shape: ir.Value) -> np.ndarray | None:
    """The target with -1 for its one unknown entry; None when it is constant already or has more unknowns."""
    concat = shape.producer()
    if concat is None or concat.op_type != "Concat":
        return None
    entries: list[int] = []
    for piece in concat.inputs:
        known = piece.const_value if piece is not None else None
        if known is not None:
            entries += [int(entry) for entry in known.numpy().reshape(-1)]
        elif piece is not None and _is_scalar(piece):
            entries.append(-1)
        else:
            return None
    fits = entries.count(-1) == 1 and 0 not in entries
    return np.array(entries, dtype=np.int64) if fits else None


def _is_scalar(value: ir.Value) -> bool:
    """Whether the value holds exactly one entry: by its shape, or because it is a scalar made a vector."""
    if value.shape is not None and value.shape.is_static():
        return int(np.prod(value.shape.numpy())) == 1
    node = value.producer()
    if node is None or node.op_type not in ("Reshape", "Unsqueeze") or node.inputs[0] is None:
        return False
    source = node.inputs[0].shape
    return source is not None and len(source) == 0
