"""Strided views that change nothing.

torch writes a change of memory layout as `as_strided`, which its exporter turns into Reshape(x, [-1]) and a Gather with
indices counted from the strides. Where these are 0, 1, 2 ... in the shape of x, the two nodes hand x on.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from edgeopt.model.passes.edit import attribute, bypass, constant_of

__all__ = ["drop_strided_views"]

BATCHES = (2, 3)
"""Indices are counted for these; they are linear in the batch, so what holds for both holds for any."""


def drop_strided_views(graph: ir.Model) -> None:
    """Take such pairs out, in place. Shapes of x and of the view have to be stated, besides the batch."""
    for node in list(graph.graph):
        flat = node.inputs[0].producer() if node.op_type == "Gather" and node.inputs[0] is not None else None
        if flat is None or flat.op_type != "Reshape" or flat.inputs[0] is None or attribute(node, "axis", 0) != 0:
            continue
        target = constant_of(flat.inputs[1])
        inner = _inner_shape(flat.inputs[0])
        if target is None or target.tolist() != [-1] or inner is None or inner != _inner_shape(node.outputs[0]):
            continue
        if all(_counts_up(node.inputs[1], batch, inner) for batch in BATCHES):
            bypass(node, flat.inputs[0])


def _inner_shape(value: ir.Value) -> tuple[int, ...] | None:
    """The shape without its first dim, if that is all that is open."""
    if value.shape is None or len(value.shape) == 0:
        return None
    inner = list(value.shape)[1:]
    return tuple(dim for dim in inner if isinstance(dim, int)) if all(isinstance(d, int) for d in inner) else None


def _counts_up(indices: ir.Value | None, batch: int, inner: tuple[int, ...]) -> bool:
    found = _evaluate(indices, batch)
    shape = (batch, *inner)
    return found is not None and found.shape == shape and bool((found.ravel() == np.arange(math.prod(shape))).all())


Arrays = list[np.ndarray]
COMPUTE: dict[str, Callable[[Arrays], np.ndarray]] = {
    "Add": lambda given: given[0] + given[1],
    "Cast": lambda given: given[0],
    "Mul": lambda given: given[0] * given[1],
    "Range": lambda given: np.arange(*(int(array.item()) for array in given)),
    "Reshape": lambda given: given[0].reshape(given[1]),
    "Squeeze": lambda given: np.squeeze(given[0]),
    "Unsqueeze": lambda given: np.expand_dims(given[0], tuple(given[1].ravel().tolist())),
}
"""How indices are counted, for integers; any other operator leaves them unknown."""


def _evaluate(value: ir.Value | None, batch: int) -> np.ndarray | None:
    """What a computed index is for this batch; None when it depends on more than that."""
    known = constant_of(value)
    if known is not None or value is None:
        return known
    node = value.producer()
    if node is None or node.inputs[0] is None:
        return None
    if node.op_type == "Shape":
        shape = node.inputs[0].shape
        ends = attribute(node, "start", 0), attribute(node, "end", None)
        return np.array([batch]) if shape and not isinstance(shape[0], int) and ends == (0, 1) else None
    given = [_evaluate(source, batch) for source in node.inputs]
    arrays = [array for array in given if array is not None]
    compute = COMPUTE.get(node.op_type)
    return compute(arrays) if compute is not None and len(arrays) == len(given) else None
