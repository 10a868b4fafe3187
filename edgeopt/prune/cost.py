"""What a pruned model would cost, without making it: parameters and MACs from the lengths that are left."""

from __future__ import annotations

import math

import numpy as np

from edgeopt.model import Model
from edgeopt.model.macs import COUNTERS, count_macs
from edgeopt.prune.groups import Plan

__all__ = ["Cost"]


class Cost:
    """Fractions of the unpruned model's parameters and MACs, for any choice of units."""

    def __init__(self, model: Model, plan: Plan) -> None:
        self._plan = plan
        graph = model.graph.graph
        statistics = {v.name for n in graph if n.op_type == "BatchNormalization" for v in n.inputs[3:] if v}
        self._weights = [
            (name, array.shape)
            for name, array in model.weights().items()
            if array.dtype.kind == "f" and array.size > 1 and name not in statistics
        ]
        self._nodes = [
            node
            for node in graph
            if node.op_type in COUNTERS
            and all(
                value is None or (value.name or "") in plan.trace.shapes for value in (*node.inputs, node.outputs[0])
            )
        ]
        kept = plan.everything()
        self._params, self._macs = max(1, self._count_params(kept)), max(1, self._count_macs(kept))

    def fractions(self, kept: np.ndarray) -> dict[str, float]:
        """What stays of `params` and `macs`, 0 to 1."""
        return {"params": self._count_params(kept) / self._params, "macs": self._count_macs(kept) / self._macs}

    def _count_params(self, kept: np.ndarray) -> int:
        return sum(math.prod(self._shape(name, shape, kept)) for name, shape in self._weights)

    def _count_macs(self, kept: np.ndarray) -> int:
        shapes = self._plan.trace.shapes
        total = 0
        for node in self._nodes:
            sides = [
                [() if v is None else self._shape(v.name or "", shapes[v.name or ""], kept) for v in values]
                for values in (node.inputs, node.outputs[:1])
            ]
            total += count_macs(node, *sides)
        return total

    def _shape(self, name: str, shape: tuple[int, ...], kept: np.ndarray) -> tuple[int, ...]:
        lengths = list(shape)
        for block in self._plan.trace.labels.get(name, ()):
            mask = self._plan.mask(block.ids, kept)
            for axis, dim in enumerate(block.dims):
                others = tuple(other for other in range(mask.ndim) if other != axis)
                lengths[dim] = int(mask.any(axis=others).sum())
        return tuple(lengths)
