"""Follow labels through a graph: which slices of which weights have to leave together.

Operators that move data are executed on the labels; elementwise operators, normalisation and contractions unite
them; a weight gives fresh ones to what it produces. Model inputs, outputs and operators without a rule pin what
reaches them: an unknown operator costs coverage, never correctness.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edgeopt.errors import StageFailed
from edgeopt.model import Model
from edgeopt.model.shapes import infer_shapes, measure_shapes, static_shape
from edgeopt.prune.labels import Block, Blocks
from edgeopt.prune.ties import FIXED, Ties

__all__ = ["BATCH", "Trace", "Tracer", "trace"]

BATCH = 2
"""Shapes are traced for this batch, so that the batch dim is not taken for one of length one."""


@dataclass(frozen=True, eq=False)
class Trace:
    """What leaves together, for a whole graph. Values are named as in the model."""

    labels: Mapping[str, Blocks]
    """Labels of every value that has any, initializers included."""
    weights: tuple[str, ...]
    """Initializers that have labels; their blocks are one dim each."""
    shapes: Mapping[str, tuple[int, ...]]
    """Shapes for a batch of two; values without a static shape are missing."""
    roots: np.ndarray
    """Label -> the label that stands for its component."""
    pinned: Mapping[int, str]
    """Root -> why it stays."""
    produces: frozenset[tuple[str, int]]
    """(initializer, axis) pairs whose slices each compute one output channel."""
    unknown: Mapping[str, str]
    """Nodes without a rule that pinned something -> their operator."""


class Tracer:
    """State of one propagation; what a rule reads and writes."""

    def __init__(self, graph: ir.Graph, deadline: float) -> None:
        self.ties = Ties()
        self.produces: set[tuple[str, int]] = set()
        self.unknown: dict[str, str] = {}
        self._graph = graph
        self._deadline = deadline
        self._blocks: dict[str, Blocks] = {}
        self._weights: dict[str, dict[int, np.ndarray]] = {}

    # ---- reading

    def shape(self, value: ir.Value | None) -> tuple[int, ...] | None:
        """Static shape, or None when it is unknown."""
        if value is None:
            return None
        if value.const_value is not None:
            return tuple(int(dim) for dim in value.const_value.shape.numpy())
        return static_shape(value)

    def constant(self, value: ir.Value | None) -> np.ndarray | None:
        """The array of an initializer, or None."""
        return value.const_value.numpy() if value is not None and value.const_value is not None else None

    def has_labels(self, value: ir.Value | None) -> bool:
        """Whether anything along this value may leave (a float weight counts)."""
        return value is not None and (self._is_weight(value) or bool(self._blocks.get(value.name or "")))

    def blocks(self, value: ir.Value) -> Blocks:
        """Labels of a value; a weight gets fresh ones on each axis."""
        if self._is_weight(value):
            shape = self.shape(value) or ()
            for dim, size in enumerate(shape):
                if size > 1:
                    self._weight_vector(value, dim)
            return tuple(Block((dim,), ids) for dim, ids in self._weights.get(value.name or "", {}).items())
        return self._blocks.get(value.name or "", ())

    def vector(self, value: ir.Value, dim: int) -> np.ndarray:
        """Labels along one dim; dims that share labels with it are made whole first."""
        if self._is_weight(value):
            return self._weight_vector(value, dim)
        for block in self.blocks(value):
            if dim in block.dims:
                others = [other for other in block.dims if other != dim]
                if not others:
                    return block.ids
                self.fix(value, others, f"shares a dim with channels at {value.name}")
                return self.vector(value, dim)
        shape = self.shape(value)
        return np.full(shape[dim] if shape else 1, FIXED)

    # ---- writing

    def write(self, value: ir.Value, blocks: Iterable[Block]) -> None:
        """Set the labels of a node's output; dims of length one and dims that are fixed throughout drop out."""
        kept = tuple(block for block in blocks if block.ids.size > 1 and block.ids.any())
        if kept:
            self._blocks[value.name or ""] = kept

    def fix(self, value: ir.Value, dims: Iterable[int], reason: str) -> None:
        """These dims keep their length: a joint block is tied along them, a block that has no other dim is pinned."""
        chosen = set(dims)
        if self._is_weight(value):
            for dim in chosen:
                if (self.shape(value) or ())[dim] > 1:
                    self.ties.pin(self._weight_vector(value, dim), reason)
            return
        blocks = [self._without(block, chosen, reason) for block in self.blocks(value)]
        self._blocks[value.name or ""] = tuple(block for block in blocks if block is not None)

    def single(self, value: ir.Value, prefer: Iterable[int] = ()) -> Blocks:
        """Labels with every joint block reduced to one of its dims: a preferred one, or the outermost."""
        wanted = list(prefer)
        for block in self.blocks(value):
            if len(block.dims) > 1:
                keep = next((dim for dim in wanted if dim in block.dims), block.dims[0])
                self.fix(value, [dim for dim in block.dims if dim != keep], f"joint dims at {value.name}")
        return self.blocks(value)

    def pin(self, value: ir.Value | None, reason: str) -> None:
        """Nothing along this value leaves."""
        if value is None:
            return
        for block in self.blocks(value):
            self.ties.pin(block.ids, reason)

    def check_time(self, node: ir.Node) -> None:
        """Raises StageFailed when the trace has used up its time."""
        if time.monotonic() > self._deadline:
            raise StageFailed(
                "following the channels through the graph takes too long",
                where=f"node {node.name!r} ({node.op_type})",
                fix="raise `time_limit` of the prune stage",
            )

    def finish(self) -> Trace:
        labels = dict(self._blocks)
        for name, axes in self._weights.items():
            labels[name] = tuple(Block((axis,), ids) for axis, ids in sorted(axes.items()))
        values = [*self._graph.inputs, *self._graph.initializers.values()]
        values += [out for node in self._graph for out in node.outputs]
        shapes = {value.name or "": shape for value in values if (shape := self.shape(value)) is not None}
        return Trace(
            labels,
            tuple(self._weights),
            shapes,
            self.ties.roots(),
            self.ties.pinned(),
            frozenset(self.produces),
            self.unknown,
        )

    # ---- inside

    def _is_weight(self, value: ir.Value) -> bool:
        return value.const_value is not None and value.const_value.dtype.is_floating_point()

    def _weight_vector(self, value: ir.Value, dim: int) -> np.ndarray:
        axes = self._weights.setdefault(value.name or "", {})
        if dim not in axes:
            axes[dim] = self.ties.fresh((self.shape(value) or ())[dim])
        return axes[dim]

    def _without(self, block: Block, dims: set[int], reason: str) -> Block | None:
        for dim in dims & set(block.dims):
            if len(block.dims) == 1:
                self.ties.pin(block.ids, reason)
                return None
            axis = block.axis(dim)
            first = np.take(block.ids, [0], axis)
            self.ties.unite(block.ids, first, reason)
            block = Block(tuple(other for other in block.dims if other != dim), first.squeeze(axis))
        return block


def trace(model: Model, time_limit: float = 60.0) -> Trace:
    """Propagate labels through the graph, `time_limit` seconds at most. Raises StageFailed."""
    from edgeopt.prune.rules import RULES

    graph = _with_shapes(model)
    tracer = Tracer(graph, time.monotonic() + time_limit)
    for node in graph:
        tracer.check_time(node)
        rule = RULES.get(node.op_type) if node.domain in ("", "ai.onnx") else None
        if rule is None or not rule(node, tracer):
            _pin_node(node, tracer)
    for value in graph.outputs:
        tracer.pin(value, "is an output of the model")
    return tracer.finish()


def _with_shapes(model: Model) -> ir.Graph:
    """A copy of the graph with shapes for a batch of two; what inference leaves open is measured by running it."""
    shaped = infer_shapes(model, BATCH)
    if any(static_shape(value) is None for node in shaped.graph.graph for value in node.outputs):
        shaped = measure_shapes(shaped)
    return shaped.graph.graph


def _pin_node(node: ir.Node, tracer: Tracer) -> None:
    """Everything that reaches a node without a rule stays; what it computes is fixed."""
    inner = [value for graph in _subgraphs(node) for value in _outer_values(graph)]
    touched = [value for value in [*node.inputs, *inner] if tracer.has_labels(value)]
    for value in touched:
        tracer.pin(value, f"reaches {node.name!r}, whose operator {node.op_type} has no pruning rule")
    if touched:
        tracer.unknown[node.name or ""] = node.op_type


def _subgraphs(node: ir.Node) -> list[ir.Graph]:
    found: list[ir.Graph] = []
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            found.append(attribute.as_graph())
        elif attribute.type == ir.AttributeType.GRAPHS:
            found.extend(attribute.as_graphs())
    return found


def _outer_values(graph: ir.Graph) -> Iterable[ir.Value]:
    """Every value that a subgraph's nodes read, its own ones included (they have no labels)."""
    for node in ir.traversal.RecursiveGraphIterator(graph):
        yield from (value for value in node.inputs if value is not None)
    yield from graph.outputs
