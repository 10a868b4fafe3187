"""Walk: run a model layer by layer over a few samples, and change what a layer made before the next one reads it.

Refinements that fit one layer after the other need each layer's result under all the corrections before it. Starting
anew for each would run the network once per layer; a walk runs it once in all. The graph is cut behind the nodes of
interest, each piece is a session of its own, and only tensors that a later piece reads are kept: between the layers of
a Q/DQ model those are 8-bit integers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import onnx
import onnx_ir as ir
from onnx import helper

from edgeopt.model.model import Model
from edgeopt.model.runtime import open_session, run

__all__ = ["Walk"]

Batches = list[np.ndarray]


class Walk:
    """A run of `model` that stops behind each of the nodes `stops` (names), in the order of the graph."""

    def __init__(self, model: Model, stops: Sequence[str], feeds: Iterable[Mapping[str, np.ndarray]]) -> None:
        self._model = model
        self._pieces = _cut(list(model.graph.graph), set(stops))
        self._live: dict[str, Batches] = {}
        for batch in feeds:
            for name, array in batch.items():
                self._live.setdefault(name, []).append(array)
        self._count = max((len(batches) for batches in self._live.values()), default=0)
        self._position = 0

    def advance(self) -> Batches:
        """Run to behind the next stop and return its first output, one array for each batch."""
        piece = self._pieces[self._position]
        self._position += 1
        wanted = [piece.stop, *sorted(_needed(self._pieces[self._position :]) & piece.made - {piece.stop})]
        given = sorted(piece.needs)
        session = open_session(_extract(self._model, piece, given, wanted).SerializeToString())
        batches = zip(*(self._live[name] for name in given), strict=True) if given else [()] * self._count
        results = [run(session, dict(zip(given, arrays, strict=True))) for arrays in batches]
        later = _needed(self._pieces[self._position :])
        self._live = {name: kept for name, kept in self._live.items() if name in later}
        made = {name: [result[i] for result in results] for i, name in enumerate(wanted)}
        self._live |= {name: arrays for name, arrays in made.items() if name in later}
        return made[piece.stop]

    def replace(self, batches: Batches) -> None:
        """Let everything from here on read `batches` where it would have read the output that `advance` returned."""
        name = self._pieces[self._position - 1].stop
        if name in self._live:
            self._live[name] = batches


class _Piece:
    """Nodes from one stop to the next, with the names that they need from before and make for later."""

    def __init__(self, nodes: Sequence[ir.Node]) -> None:
        self.nodes = list(nodes)
        self.stop = nodes[-1].outputs[0].name or ""
        self.made = {value.name or "" for node in nodes for value in node.outputs}
        self.dequantizers: dict[str, ir.Node] = {}
        self.needs: set[str] = set()
        for value in _read(nodes):
            maker = value.producer()
            source: ir.Value | None = value
            if maker is not None and maker.op_type == "DequantizeLinear":
                self.dequantizers[maker.name or ""] = maker
                source = maker.inputs[0]  # the integers are what is kept
            if source is not None and source.const_value is None and source.name not in self.made:
                self.needs.add(source.name or "")


def _cut(nodes: Sequence[ir.Node], stops: set[str]) -> list[_Piece]:
    """Pieces that end in a stop; DequantizeLinear is in none, it is repeated wherever it is read."""
    pieces, current = [], []
    for node in nodes:
        if node.op_type == "DequantizeLinear":
            continue
        current.append(node)
        if node.name in stops:
            pieces.append(_Piece(current))
            current = []
    return pieces


def _read(nodes: Iterable[ir.Node]) -> Iterable[ir.Value]:
    """Values that the nodes read, also from inside their subgraphs; what a subgraph makes itself is not among them."""
    for node in nodes:
        yield from (value for value in node.inputs if value is not None)
        for attribute in node.attributes.values():
            if attribute.type == ir.AttributeType.GRAPH:
                body = attribute.as_graph()
                own = {*body.inputs, *body.initializers.values(), *(v for n in body for v in n.outputs)}
                yield from (value for value in _read(body) if value not in own)


def _needed(pieces: Iterable[_Piece]) -> set[str]:
    return set().union(*(piece.needs for piece in pieces))


def _extract(model: Model, piece: _Piece, given: Sequence[str], wanted: Sequence[str]) -> onnx.ModelProto:
    """The piece as a model of its own."""
    nodes = [*piece.dequantizers.values(), *piece.nodes]
    values = {value.name: value for node in nodes for value in (*node.inputs, *node.outputs) if value is not None}
    values |= {value.name: value for value in _read(nodes)}
    constants = [value for value in values.values() if value.const_value is not None]
    graph = helper.make_graph(
        [ir.to_proto(node) for node in nodes],
        "piece",
        [_info(values[name]) for name in given],
        [_info(values[name]) for name in wanted],
        [_tensor(value) for value in constants],
    )
    opsets = [helper.make_opsetid(domain, version) for domain, version in model.graph.opset_imports.items()]
    return helper.make_model(graph, opset_imports=opsets, ir_version=model.graph.ir_version)


def _info(value: ir.Value) -> onnx.ValueInfoProto:
    kind = (value.dtype or ir.DataType.FLOAT).value
    return helper.make_tensor_value_info(value.name or "", kind, None)


def _tensor(value: ir.Value) -> onnx.TensorProto:
    assert value.const_value is not None
    tensor: onnx.TensorProto = ir.to_proto(value.const_value)
    tensor.name = value.name or ""
    return tensor
