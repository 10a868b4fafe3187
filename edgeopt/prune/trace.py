"""Follow labels through a graph: which slices of which weights have to leave together.

Operators that move data are executed on the labels; elementwise operators, normalisation and contractions unite
them; a weight gives fresh ones to what it produces. Model inputs, outputs and operators without a rule pin what
reaches them: an unknown operator costs coverage, never correctness.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import onnx_ir as ir

from edgeopt.errors import StageFailed
from edgeopt.model import Model
from edgeopt.model.child import NativeFailed
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
    """Nodes without a rule that pinned something -> their operator, and how its rule failed if it has one."""
    open_dims: Mapping[str, frozenset[int]] = field(default_factory=dict)
    """Result of a Reshape to a computed shape -> its dims whose length follows the batch."""


class Tracer:
    """State of one propagation; what a rule reads and writes."""

    def __init__(self, graph: ir.Graph, deadline: float) -> None:
        self.ties = Ties()
        self.unknown: dict[str, str] = {}
        self._graph = graph
        self._deadline = deadline
        self._blocks: dict[str, Blocks] = {}
        self._weights: dict[str, dict[int, np.ndarray]] = {}
        self._produced: list[np.ndarray] = []
        self._computed_weights: set[str] = set()

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

    def is_weight(self, value: ir.Value | None) -> bool:
        """Whether it depends on initializers alone: a weight, or what the graph computes from weights."""
        return value is not None and (value.const_value is not None or value.name in self._computed_weights)

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
        """Set the labels of a node's output.

        Dims that are fixed throughout drop out, and so do those of length one, whose only slice stays: nothing can be
        left empty.
        """
        given = list(blocks)
        for block in given:
            if block.ids.size == 1:
                self.ties.pin(block.ids, f"is all that {value.name} has")
        self._blocks[value.name or ""] = tuple(block for block in given if block.ids.size > 1 and block.ids.any())

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

    def note_produced(self, value: ir.Value | None, dims: Iterable[int]) -> None:
        """Slices of these dims of a weight, or of what it was computed from, each compute one channel."""
        if value is not None and self.is_weight(value):
            chosen = set(dims)
            self._produced += [block.ids.ravel() for block in self.blocks(value) if chosen & set(block.dims)]

    def note_computed(self, node: ir.Node) -> None:
        """Remember outputs that depend on weights alone."""
        if node.inputs and all(value is None or self.is_weight(value) for value in node.inputs):
            self._computed_weights |= {value.name or "" for value in node.outputs}

    def check_time(self, node: ir.Node) -> None:
        """Raises StageFailed when the trace has used up its time."""
        if time.monotonic() > self._deadline:
            raise _too_slow(f"node {node.name!r} ({node.op_type})")

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
            self._producing_axes(),
            self.unknown,
        )

    # ---- inside

    def _producing_axes(self) -> frozenset[tuple[str, int]]:
        produced = np.zeros(self.ties.count, bool)
        for ids in self._produced:
            produced[ids] = True
        produced[FIXED] = False
        axes = [(name, axis, ids) for name, vectors in self._weights.items() for axis, ids in vectors.items()]
        return frozenset((name, axis) for name, axis, ids in axes if produced[ids].any())

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

    deadline = time.monotonic() + time_limit
    graph = _with_shapes(model, BATCH, deadline)
    tracer = Tracer(graph, deadline)
    for node in graph:
        tracer.check_time(node)
        uncovered = _uncovered(RULES.get(node.op_type) if node.domain in ("", "ai.onnx") else None, node, tracer)
        if uncovered:
            _pin_node(node, tracer, uncovered)
        tracer.note_computed(node)
    for value in graph.outputs:
        tracer.pin(value, "is an output of the model")
    return replace(tracer.finish(), open_dims=_open_dims(model, graph, deadline))


def _with_shapes(model: Model, batch: int, deadline: float) -> ir.Graph:
    """A copy of the graph with shapes for this batch; what inference leaves open is measured by running it."""
    try:
        shaped = infer_shapes(model, batch, seconds=max(deadline - time.monotonic(), 0.01))
    except NativeFailed as error:
        if error.reason == "hang":
            raise _too_slow(f"shape inference of {error.where}") from error
        raise
    if any(static_shape(value) is None for node in shaped.graph.graph for value in node.outputs):
        shaped = measure_shapes(shaped)
    return shaped.graph.graph


def _uncovered(rule: Callable[[ir.Node, Tracer], bool] | None, node: ir.Node, tracer: Tracer) -> str:
    """How a message calls the operator of a node that no rule covers; empty when one does.

    A rule that fails has met a form that nobody thought of: what it has united until then stays united, which couples
    too much rather than too little.
    """
    try:
        return "" if rule is not None and rule(node, tracer) else node.op_type
    except Exception as error:  # whatever a malformed or unusual node makes numpy or Python raise
        return f"{node.op_type} (its rule fails: {type(error).__name__}: {' '.join(str(error).split())[:80]})"


def _too_slow(where: str) -> StageFailed:
    return StageFailed(
        "following the channels through the graph takes too long",
        where=where,
        fix="raise `time_limit` of the prune stage",
    )


def _open_dims(model: Model, graph: ir.Graph, deadline: float) -> dict[str, frozenset[int]]:
    """Which dims of results of computed shape follow the batch: those that differ for another one."""
    computed = {node.outputs[0].name: static_shape(node.outputs[0]) for node in graph if _is_computed(node)}
    if not computed or all(isinstance(dim, int) for info in model.inputs for dim in info.shape[:1]):
        return dict.fromkeys((name or "" for name, shape in computed.items() if shape is not None), frozenset())
    found = {}
    for node in _with_shapes(model, BATCH + 1, deadline):
        name = node.outputs[0].name
        before, after = computed.get(name), static_shape(node.outputs[0])
        if before is not None and after is not None and len(before) == len(after):
            found[name or ""] = frozenset(dim for dim in range(len(after)) if before[dim] != after[dim])
    return found


def _is_computed(node: ir.Node) -> bool:
    """Whether it is a Reshape to a shape that the graph computes."""
    return node.op_type == "Reshape" and node.inputs[1] is not None and node.inputs[1].const_value is None


def _pin_node(node: ir.Node, tracer: Tracer, operator: str) -> None:
    """Everything that reaches a node without a rule stays; what it computes is fixed."""
    for output in node.outputs:
        tracer.write(output, ())
    inner = [value for graph in _subgraphs(node) for value in _outer_values(graph)]
    touched = [value for value in [*node.inputs, *inner] if tracer.has_labels(value)]
    for value in touched:
        tracer.pin(value, f"reaches {node.name!r}, whose operator {operator} has no pruning rule")
    if touched:
        tracer.unknown[node.name or ""] = operator


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
