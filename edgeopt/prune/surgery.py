"""Take units out of a copy of the model: gather every weight, rewrite every number that counts channels."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgeopt.model import Model
from edgeopt.prune.groups import Plan
from edgeopt.prune.permute import gather_ragged

__all__ = ["CannotRemove", "Cut", "remove"]


class CannotRemove(Exception):
    """These units cannot leave in this combination; `units` are their numbers."""

    def __init__(self, units: np.ndarray, reason: str) -> None:
        self.units, self.reason = units, reason
        super().__init__(reason)


class Cut:
    """The graph being cut, and what is left of each of its values."""

    def __init__(self, graph: ir.Graph, plan: Plan, kept: np.ndarray) -> None:
        self.graph, self.plan, self.kept = graph, plan, kept

    def masks(self, value: ir.Value | None) -> dict[int, np.ndarray]:
        """Dim -> bool [length], for every dim that gets shorter.

        Raises CannotRemove when nothing would be left, or when the dims of a joint block would be left ragged.
        """
        found: dict[int, np.ndarray] = {}
        for block in self.plan.trace.labels.get(value.name or "", ()) if value is not None else ():
            mask = self.plan.mask(block.ids, self.kept)
            if mask.all():
                continue
            for axis, dim in enumerate(block.dims):
                along = np.asarray(mask.any(axis=tuple(other for other in range(mask.ndim) if other != axis)))
                if not along.all():
                    found[dim] = along
            lengths = [found.get(dim, np.ones(mask.shape[i], bool)) for i, dim in enumerate(block.dims)]
            whole = np.ix_(*lengths)
            if not mask.any() or not mask[whole].all():
                name = value.name if value is not None else ""
                units = np.unique(self.plan.unit_of[block.ids[~mask]])
                raise CannotRemove(units, f"would leave {name!r} {'ragged' if mask.any() else 'empty'}")
        return found

    def is_ragged(self, value: ir.Value) -> bool:
        try:
            self.masks(value)
        except CannotRemove:
            return True
        return False

    def length(self, value: ir.Value) -> tuple[int, ...]:
        """The value's shape before the cut (batch of two)."""
        return self.plan.trace.shapes[value.name or ""]

    def add(self, node: ir.Node, role: str, array: np.ndarray) -> ir.Value:
        """A new initializer for one node, named after it."""
        name = f"{node.name}.{role}"
        while name in self.graph.initializers:
            name += "_"
        value = ir.Value(name=name, const_value=ir.tensor(array, name=name))
        value.shape, value.dtype = ir.Shape(array.shape), ir.DataType.from_numpy(array.dtype)
        self.graph.register_initializer(value)
        return value


def remove(model: Model, plan: Plan, kept: np.ndarray) -> tuple[Model, list[dict[str, object]]]:
    """A new model without the units whose `kept` is False, and the record of it.

    The record is a list of {"name", "axis", "kept"} over the initializers of `model`. Raises CannotRemove, without
    units where what failed does not say which ones are to blame.
    """
    pruned = model.copy()
    try:
        return pruned, _cut_out(Cut(pruned.graph.graph, plan, kept))
    except CannotRemove:
        raise
    except Exception as error:  # whatever a malformed or unusual node makes numpy or Python raise
        reason = f"cannot be taken out ({type(error).__name__}: {' '.join(str(error).split())[:80]})"
        raise CannotRemove(np.zeros(0, np.int64), reason) from error


def _cut_out(cut: Cut) -> list[dict[str, object]]:
    """Rewrite the nodes and gather the weights, in place; the record."""
    from edgeopt.prune.rewrite import REWRITES

    nodes = list(cut.graph)
    gather_ragged(cut)
    for node in nodes:
        if node.graph is None:
            continue  # part of a shuffle that became a Gather
        rewrite = REWRITES.get(node.op_type) if node.domain in ("", "ai.onnx") else None
        if rewrite is not None:
            rewrite(node, cut)
    _shorten_shapes(cut)
    record = _gather_weights(cut)
    _drop_unused(cut.graph)
    return record


def _gather_weights(cut: Cut) -> list[dict[str, object]]:
    record: list[dict[str, object]] = []
    for name, value in cut.graph.initializers.items():
        masks = cut.masks(value)
        if not masks or value.const_value is None:
            continue
        array = value.const_value.numpy()
        for axis, mask in sorted(masks.items()):
            index = np.flatnonzero(mask)
            array = np.take(array, index, axis)
            record.append({"name": name, "axis": axis, "kept": index.tolist()})
        value.const_value = ir.Tensor(np.ascontiguousarray(array), name=name)
        value.shape = ir.Shape(array.shape)
    return record


def _shorten_shapes(cut: Cut) -> None:
    """Shapes that the file states of inner values, with the new lengths."""
    for node in cut.graph:
        for value in node.outputs:
            if value.shape is None:
                continue
            masks = cut.masks(value)
            lengths = [int(masks[dim].sum()) if dim in masks else size for dim, size in enumerate(value.shape)]
            value.shape = ir.Shape(lengths)


def _drop_unused(graph: ir.Graph) -> None:
    """Initializers that nothing reads any more."""
    outputs = set(graph.outputs)
    for name, value in list(graph.initializers.items()):
        if not value.uses() and value not in outputs:
            graph.initializers.pop(name)
