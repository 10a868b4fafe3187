"""What a pruned model would cost, without making it: from the lengths that are left.

Parameters and MACs are exact. File and activation memory are estimates in elements: what an element takes in the end,
and what comes on top, is measured on a file now and then (`edgeopt.prune.aim`), which scales them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection, Mapping

import numpy as np
import onnx_ir as ir

from edgeopt.model import Model
from edgeopt.model.macs import COUNTERS, count_macs
from edgeopt.model.memory import lives
from edgeopt.prune.groups import Plan

__all__ = ["Cost"]

PER_CHANNEL = 12
"""What a channel of a layer takes in an int8 file besides its weights: bias, scale of the weights, scale of the bias.
In elements; a float file has one or two, which is small beside the weights."""
# fmt: off
IN_PLACE = frozenset((
    "BatchNormalization", "Clip", "Dropout", "Elu", "Flatten", "HardSigmoid", "HardSwish", "Identity", "LeakyRelu",
    "Relu", "Reshape", "Sigmoid", "Squeeze", "Tanh", "Unsqueeze",
))
# fmt: on
"""Operators whose result takes the place of what they read, or is fused with what made it."""


class Cost:
    """What stays of the unpruned model's `params`, `macs`, `size` and `ram`, for any choice of units.

    `others`: further quantities, each a function of the units kept.
    """

    def __init__(
        self, model: Model, plan: Plan, others: Mapping[str, Callable[[np.ndarray], float]] | None = None
    ) -> None:
        self._plan = plan
        self._units: dict[str, list[tuple[tuple[int, ...], np.ndarray]]] = {}
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
        self._lives = _lives(graph, plan)
        self._counters: dict[str, Callable[[np.ndarray], float]] = {
            "params": self._count_params,
            "macs": self._count_macs,
            "size": self._count_size,
            "ram": self._count_ram,
            **(others or {}),
        }
        self._whole: dict[str, float] = {}

    def fractions(self, kept: np.ndarray, names: Collection[str] = ("params", "macs")) -> dict[str, float]:
        """What stays of each quantity, 0 to 1."""
        for name in set(names) - set(self._whole):
            self._whole[name] = max(1e-12, self._counters[name](self._plan.everything()))
        return {name: self._counters[name](kept) / self._whole[name] for name in names}

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

    def _count_size(self, kept: np.ndarray) -> int:
        """Elements of matrices and kernels, and so many for each of their channels."""
        total = 0
        for name, shape in self._weights:
            left = self._shape(name, shape, kept)
            if len(shape) > 1:
                total += math.prod(left) + PER_CHANNEL * (left[0] if len(shape) > 2 else min(left))
        return total

    def _count_ram(self, kept: np.ndarray) -> int:
        """The largest sum of elements that are alive at once."""
        steps = 1 + max((last for _, _, last in self._lives), default=0)
        change = [0] * (steps + 1)
        for name, first, last in self._lives:
            size = math.prod(self._shape(name, self._plan.trace.shapes[name], kept))
            change[first] += size
            change[last + 1] -= size
        return max(itertools.accumulate(change))

    def _shape(self, name: str, shape: tuple[int, ...], kept: np.ndarray) -> tuple[int, ...]:
        if name not in self._units:
            blocks = [(b.dims, self._plan.unit_of[b.ids]) for b in self._plan.trace.labels.get(name, ())]
            self._units[name] = [(dims, units) for dims, units in blocks if (units >= 0).any()]
        lengths = list(shape)
        for dims, units in self._units[name]:
            mask = kept[units] | (units < 0)
            if len(dims) == 1:
                lengths[dims[0]] = int(np.count_nonzero(mask))
                continue
            for axis, dim in enumerate(dims):
                others = tuple(other for other in range(mask.ndim) if other != axis)
                lengths[dim] = int(mask.any(axis=others).sum())
        return tuple(lengths)


def _lives(graph: ir.Graph, plan: Plan) -> list[tuple[str, int, int]]:
    """(tensor, first step, last step it is alive in) for what is stored while the model runs."""
    place: dict[ir.Value, ir.Value] = {}
    for node in graph:
        if node.op_type in IN_PLACE and node.inputs and node.inputs[0] is not None:
            place[node.outputs[0]] = place.get(node.inputs[0], node.inputs[0])

    def holder(value: ir.Value) -> ir.Value | None:
        root = place.get(value, value)
        return root if (root.name or "") in plan.trace.shapes else None

    return [(value.name or "", first, last) for value, (first, last) in lives(list(graph), graph, holder).items()]
