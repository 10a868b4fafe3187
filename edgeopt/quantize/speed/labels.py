"""A float graph as a labelling problem: which nodes in integers, for the least time in all."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import onnx_ir as ir

from edgeopt.model.model import Model
from edgeopt.model.passes.edit import constant_of
from edgeopt.quantize.eligible import is_float
from edgeopt.quantize.operators import CLIPS, SHARING, data_inputs, has_weight
from edgeopt.quantize.speed.costs import TYPICAL, Costs
from edgeopt.quantize.speed.cut import FORBIDDEN, Problem, Tensor, solve, total

__all__ = ["Labels", "cheapest"]


def cheapest(model: Model, candidates: Collection[str], costs: Costs = TYPICAL) -> frozenset[str]:
    """Names of the nodes among `candidates` to keep in float, for the least time by `costs`.

    `model` is the prepared float model, with shapes.
    """
    return Labels(model, candidates, costs).floating()


class Labels:
    """The problem of one graph and one set of costs, to be solved with some labels given."""

    def __init__(self, model: Model, candidates: Collection[str], costs: Costs = TYPICAL) -> None:
        self.nodes = list(model.graph.graph)
        self.number = {node: index for index, node in enumerate(self.nodes)}
        self.candidates = frozenset(candidates)
        pairs = [costs.of_node(node) for node in self.nodes]
        requires = self._requires()
        impossible = {a for a, b in requires if b is None}
        able = [node.name in self.candidates and node not in impossible for node in self.nodes]
        whole = [i + costs.rounding * _rounds(node) for (_, i), node in zip(pairs, self.nodes, strict=True)]
        self.problem = Problem(
            floating=tuple(round(floating) for floating, _ in pairs),
            integer=tuple(round(i) if can else FORBIDDEN for i, can in zip(whole, able, strict=True)),
            tensors=tuple(self._tensors(model, costs)),
            requires=tuple((self.number[a], self.number[b]) for a, b in requires if b is not None),
        )

    def floating(self, given: Mapping[str, bool] | None = None) -> frozenset[str]:
        """The candidates to keep in float; `given`: node name -> whether it has to run in integers."""
        return self._names(solve(self._with(given or {})))

    def total(self, floating: Collection[str]) -> int:
        """Nanoseconds of the model with these candidates in float."""
        integer = self.candidates - set(floating)
        return total(self.problem, frozenset(i for i, node in enumerate(self.nodes) if node.name in integer))

    def _with(self, given: Mapping[str, bool]) -> Problem:
        floating, integer = list(self.problem.floating), list(self.problem.integer)
        for index, node in enumerate(self.nodes):
            wanted = given.get(node.name or "")
            if wanted is not None and integer[index] < FORBIDDEN:
                (floating if wanted else integer)[index] = FORBIDDEN
        return Problem(tuple(floating), tuple(integer), self.problem.tensors, self.problem.requires)

    def _names(self, integer: Collection[int]) -> frozenset[str]:
        return self.candidates - {self.nodes[index].name or "" for index in integer}

    def _requires(self) -> list[tuple[ir.Node, ir.Node | None]]:
        """(a, b): `a` runs in integers only if `b` does, by the rules of placement; None: it never can."""
        found: list[tuple[ir.Node, ir.Node | None]] = []
        for node in self.nodes:
            if node.name not in self.candidates or has_weight(node):
                continue
            for index in data_inputs(node):
                value = node.inputs[index]
                if value is not None and constant_of(value) is None:
                    maker = value.producer()
                    found.append((node, maker))
                    alone = len(value.uses()) == 1 and not value.is_graph_output()
                    if node.op_type in CLIPS and maker is not None and maker.name in self.candidates and alone:
                        found.append((maker, node))  # the clip is part of it
        return found

    def _tensors(self, model: Model, costs: Costs) -> list[Tensor]:
        found = []
        made = (value for node in self.nodes for value in node.outputs)
        for value in (*model.graph.graph.inputs, *made):
            maker = value.producer()
            readers = {self.number[u] for u, i in value.uses() if u in self.number and _as_data(u, i)}
            if not is_float(value) or not (readers or value.is_graph_output()):
                continue
            quantize, dequantize = round(costs.to_integers(value)), round(costs.to_floats(value))
            found.append(
                Tensor(
                    self.number[maker] if maker is not None else None,
                    tuple(sorted(readers)),
                    quantize,
                    dequantize,
                    output=value.is_graph_output(),
                )
            )
        return found


def _rounds(node: ir.Node) -> bool:
    """Whether it makes new numbers, which integers round."""
    return node.op_type not in SHARING and node.op_type not in CLIPS


def _as_data(node: ir.Node, index: int) -> bool:
    return node.op_type in ("Shape", "Size") or index in data_inputs(node) or index == 0
