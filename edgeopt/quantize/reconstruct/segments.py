"""A graph run piece by piece: from the values held of every batch to any values after them.

Layer-by-layer work needs the inputs of each layer in turn. To run the network from its start for every layer costs
as many passes as there are layers; to keep all activations costs more memory than there is. So the values that
cross one place of the graph are held (of a Q/DQ graph mostly bytes), and the place moves on behind the layers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx
from onnx import numpy_helper

from edgeopt.model.model import Model
from edgeopt.model.runtime import open_session, run

__all__ = ["Segments"]


class Segments:
    """One graph with the values held of each batch; `batches` (input name -> array, of any size) are held at first."""

    def __init__(self, model: Model, batches: Sequence[Mapping[str, np.ndarray]]) -> None:
        proto = model.to_proto()
        self._opsets = list(proto.opset_import)
        self._version = proto.ir_version
        self._nodes = list(proto.graph.node)
        self._constants = {tensor.name: tensor for tensor in proto.graph.initializer}
        self._types = {value.name: value for value in proto.graph.input}
        self._maker = {name: index for index, node in enumerate(self._nodes) for name in node.output if name}
        self._reads = [_reads(node) for node in self._nodes]
        self._index = {node.name: index for index, node in enumerate(self._nodes)}
        self._readers: dict[str, list[int]] = {}
        for index, names in enumerate(self._reads):
            for name in dict.fromkeys(names):
                self._readers.setdefault(name, []).append(index)
        self._outputs = [value.name for value in proto.graph.output]
        self._done: set[int] = set()
        self._held = [dict(batch) for batch in batches]

    def set_inputs(self, name: str, arrays: Mapping[int, np.ndarray | None]) -> None:
        """Give constant inputs of a node other values: position -> array (None: as it is). Behind a DequantizeLinear
        the integers change.
        """
        for index, array in arrays.items():
            if array is not None:
                constant = self._constant_input(self.node(name), index)
                self._constants[constant] = numpy_helper.from_array(np.ascontiguousarray(array), constant)

    def owns(self, name: str, indices: Sequence[int]) -> bool:
        """Whether the constants at these inputs of the node serve it alone."""
        node = self.node(name)
        for index in indices:
            if index >= len(node.input) or not node.input[index]:
                continue
            constant = self._constant_input(node, index)
            if len(self.readers(node.input[index])) > 1 or len(self.readers(constant)) > 1:
                return False
        return True

    def _constant_input(self, node: onnx.NodeProto, index: int) -> str:
        """Name of the initializer at an input, behind a DequantizeLinear if there is one."""
        value: str = node.input[index]
        maker = self._maker.get(value)
        return value if maker is None else str(self._nodes[maker].input[0])

    def readers(self, value: str) -> list[onnx.NodeProto]:
        """The nodes that read `value`."""
        return [self._nodes[index] for index in self._readers.get(value, ())]

    def has_node(self, name: str) -> bool:
        """Whether there is a node of that name."""
        return name in self._index

    def node(self, name: str) -> onnx.NodeProto:
        """The node of that name."""
        return self._nodes[self._index[name]]

    def ancestors(self, value: str) -> set[str]:
        """Names of the nodes that `value` is computed from."""
        return {self._nodes[index].name for index in self._needed([value], ())}

    def is_constant(self, value: str) -> bool:
        """Whether it is an initializer, or absent."""
        return not value or value in self._constants

    def run(self, wanted: Sequence[str]) -> Iterator[dict[str, np.ndarray]]:
        """The `wanted` values of each batch, from what is held."""
        computed = [name for name in dict.fromkeys(wanted) if name not in self._held[0]]
        session = open_session(self._piece(computed)) if computed else None
        sources = [value.name for value in session.get_inputs()] if session is not None else []
        for held in self._held:
            found = run(session, {name: held[name] for name in sources}) if session is not None else []
            values = dict(zip(computed, found, strict=True))
            yield {name: values.get(name, held.get(name)) for name in wanted}  # type: ignore[misc]

    def advance(self, name: str, limit_bytes: float) -> bool:
        """Hold what crosses the graph after the node `name` in place of what is held now, if all batches together
        fit `limit_bytes`; False, and nothing changed, when they do not.
        """
        done = self._closed(self._index[name])
        wanted = self._crossing(done)
        size = sum(array.nbytes for array in next(self.run(wanted)).values())
        if size * len(self._held) > limit_bytes:
            return False
        for index, values in enumerate(self.run(wanted)):
            self._held[index] = values
        self._done = done
        return True

    def _closed(self, last: int) -> set[int]:
        """The nodes up to `last`, and the QuantizeLinear that can run then: bytes are held instead of floats."""
        done = self._done | set(range(last + 1))
        for index in range(last + 1, len(self._nodes)):
            if self._nodes[index].op_type == "QuantizeLinear" and self._maker.get(self._reads[index][0], -1) in done:
                done.add(index)
        return done

    def _crossing(self, done: set[int]) -> list[str]:
        """What the nodes after `done` read of them and of the inputs; a DequantizeLinear is run again instead."""
        read = [name for index in range(len(self._nodes)) if index not in done for name in self._reads[index]]
        crossing: dict[str, None] = {}
        for name in [*read, *self._outputs]:
            maker = self._maker.get(name)
            if maker is not None and self._nodes[maker].op_type == "DequantizeLinear":
                name = self._nodes[maker].input[0]
                maker = self._maker.get(name)
            inner = maker is None and name in self._types and name not in self._constants
            if inner or (maker is not None and maker in done and name not in self._constants):
                crossing[name] = None
        return list(crossing)

    def _needed(self, wanted: Sequence[str], available: Sequence[str] | Mapping[str, object]) -> list[int]:
        """Nodes that compute `wanted` from `available`, in order."""
        found: set[int] = set()
        queue = list(wanted)
        while queue:
            index = self._maker.get(name := queue.pop())
            if name in available or index is None or index in found:
                continue
            found.add(index)
            queue += self._reads[index]
        return sorted(found)

    def _piece(self, wanted: Sequence[str]) -> bytes:
        """A model from the held values to `wanted`."""
        held = self._held[0]
        needed = self._needed(wanted, held)
        nodes = [self._nodes[index] for index in needed]
        read = dict.fromkeys(name for index in needed for name in self._reads[index])
        kind = onnx.helper.np_dtype_to_tensor_dtype
        inputs = [
            onnx.helper.make_tensor_value_info(name, kind(held[name].dtype), [None] * held[name].ndim)
            for name in read
            if name in held
        ]
        outputs = [onnx.ValueInfoProto(name=name) for name in wanted]
        constants = [self._constants[name] for name in read if name in self._constants and name not in held]
        graph = onnx.helper.make_graph(nodes, "piece", inputs, outputs, constants)
        model = onnx.helper.make_model(graph, opset_imports=self._opsets, ir_version=self._version)
        content: bytes = model.SerializeToString()
        return content


def _reads(node: onnx.NodeProto) -> list[str]:
    """Names of the values a node reads, those of its subgraphs included."""
    names = [name for name in node.input if name]
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            names += [name for inner in graph.node for name in _reads(inner)]
    return names
