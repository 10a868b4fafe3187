"""A graph run piece by piece: from the values held of every batch to any values after them.

Layer-by-layer work needs the inputs of each layer in turn. To run the network from its start for every layer costs
as many passes as there are layers; to keep all activations costs more memory than there is. So the values that
cross one place of the graph are held (of a Q/DQ graph mostly bytes, see `pile.py` for where), and the place moves on
behind the layers.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import onnx
import onnx_ir as ir

from edgeopt.model.layerwise.pile import IN_MEMORY, Pile
from edgeopt.model.model import Model
from edgeopt.model.runtime import open_session, run

__all__ = ["Segments"]

Values = dict[str, np.ndarray]
Change = Callable[[np.ndarray], np.ndarray]


class Segments:
    """One graph with the values held of each batch: at first `held`, input name -> its batches (see `pile_up`).

    `in_memory` bytes of each value that is held touch no disk.
    """

    def __init__(self, model: Model, held: Mapping[str, Pile], in_memory: int = IN_MEMORY) -> None:
        graph = model.graph.graph
        self._opsets = [onnx.helper.make_opsetid(*opset) for opset in model.graph.opset_imports.items()]
        self._version = model.graph.ir_version
        self._nodes = [ir.to_proto(node) for node in graph]
        self._constants = {
            name: value.const_value for name, value in graph.initializers.items() if value.const_value is not None
        }
        self._inputs = {value.name for value in graph.inputs} - set(self._constants)
        self._maker = {name: index for index, node in enumerate(self._nodes) for name in node.output if name}
        self._reads = [_reads(node) for node in self._nodes]
        self._index = {node.name: index for index, node in enumerate(self._nodes)}
        self._readers: dict[str, list[int]] = {}
        for index, names in enumerate(self._reads):
            for name in dict.fromkeys(names):
                self._readers.setdefault(name, []).append(index)
        self._outputs = [value.name or "" for value in graph.outputs]
        self._done: set[int] = set()
        self._held = dict(held)
        self._in_memory = in_memory
        self._changes: dict[str, Change] = {}

    @property
    def batches(self) -> int:
        """How many there are."""
        return max((len(pile) for pile in self._held.values()), default=0)

    @property
    def held(self) -> list[str]:
        """Names of the values that are held."""
        return list(self._held)

    def set_inputs(self, name: str, arrays: Mapping[int, np.ndarray | None]) -> None:
        """Give constant inputs of a node other values: position -> array (None: as it is). Behind a DequantizeLinear
        the integers change.
        """
        for index, array in arrays.items():
            if array is not None:
                constant = self._constant_input(self.node(name), index)
                self._constants[constant] = ir.tensor(np.ascontiguousarray(array), name=constant)

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

    def run(self, wanted: Sequence[str]) -> Iterator[Values]:
        """The `wanted` values of each batch, from what is held."""
        computed = [name for name in dict.fromkeys(wanted) if name not in self._held]
        session = open_session(self._piece(computed)) if computed else None
        sources = [value.name for value in session.get_inputs()] if session is not None else []
        for batch in range(self.batches):
            values = {name: self._load(name, batch) for name in {*sources, *wanted} & self._held.keys()}
            if session is not None:
                values |= zip(computed, run(session, {name: values[name] for name in sources}), strict=True)
            yield {name: values[name] for name in wanted}

    def step(
        self, name: str, wanted: Sequence[str] = (), *, limit_bytes: float = math.inf, keep: str | None = None
    ) -> Iterator[Values]:
        """What `run` gives, and after the last batch what crosses the graph behind the node `name` is held in place of
        what was held before. One run serves both.

        Nothing changes where all batches together would take more than `limit_bytes`. `keep` is held as it is even
        where it could be rounded at once, so that `change` can still reach it.
        """
        done = self._closed(self._index[name], keep)
        crossing = self._crossing(done)
        piles = {value: Pile(self._in_memory) for value in crossing if value not in self._held}
        values = self.run([*wanted, *piles])
        first = next(values, None)
        if first is None:
            return
        size = self.batches * sum(first[value].nbytes for value in piles)
        if size + sum(self._held[value].nbytes for value in crossing if value in self._held) > limit_bytes:
            yield from self.run(wanted) if wanted else ()
            return
        for found in itertools.chain([first], values):
            for value, pile in piles.items():
                pile.append(found[value])
            yield {value: found[value] for value in wanted}
        self._held = {value: self._held[value] if value in self._held else piles[value] for value in crossing}
        self._changes = {value: change for value, change in self._changes.items() if value in self._held}
        self._done = done

    def advance(self, name: str, limit_bytes: float = math.inf) -> bool:
        """`step` without looking; whether there was room."""
        for _ in self.step(name, limit_bytes=limit_bytes):
            pass
        return self._index[name] in self._done

    def change(self, value: str, change: Change) -> None:
        """Let everything from here on read `change(array)` where it would have read the held `value`. The array may
        be changed in place. No effect on a value that nothing reads any more.
        """
        if value in self._held:
            self._changes[value] = change

    def _load(self, name: str, batch: int) -> np.ndarray:
        array = self._held[name][batch]
        return self._changes[name](array) if name in self._changes else array

    def _closed(self, last: int, keep: str | None) -> set[int]:
        """The nodes up to `last`, and the QuantizeLinear that can run then: bytes are held instead of floats."""
        done = self._done | set(range(last + 1))
        for index in range(last + 1, len(self._nodes)):
            read = self._reads[index][:1]
            if self._nodes[index].op_type == "QuantizeLinear" and read != [keep] and self._maker.get(read[0]) in done:
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
            if maker in done if maker is not None else name in self._inputs:
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
        needed = self._needed(wanted, self._held)
        read = dict.fromkeys(name for index in needed for name in self._reads[index])
        kind = onnx.helper.np_dtype_to_tensor_dtype
        inputs = [
            onnx.helper.make_tensor_value_info(name, kind(pile.dtype), [None] * pile.rank)
            for name, pile in self._held.items()
            if name in read
        ]
        outputs = [onnx.ValueInfoProto(name=name) for name in wanted]
        constants = [_proto(name, self._constants[name]) for name in read if name in self._constants]
        graph = onnx.helper.make_graph([self._nodes[index] for index in needed], "piece", inputs, outputs, constants)
        model = onnx.helper.make_model(graph, opset_imports=self._opsets, ir_version=self._version)
        content: bytes = model.SerializeToString()
        return content


def _proto(name: str, constant: ir.TensorProtocol) -> onnx.TensorProto:
    tensor: onnx.TensorProto = ir.to_proto(constant)
    tensor.name = name
    return tensor


def _reads(node: onnx.NodeProto) -> list[str]:
    """Names of the values a node reads, those of its subgraphs included."""
    names = [name for name in node.input if name]
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            names += [name for inner in graph.node for name in _reads(inner)]
    return names
