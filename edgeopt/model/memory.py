"""Activation memory from tensor lifetimes.

Definitions. Nodes run in graph order. A tensor is alive from the node that writes it (a graph input: from
the start) to the last node that reads it (a graph output: to the end). The memory of a step is the sum of
all tensors alive then, its own inputs and outputs included; the peak is the largest step. Weights and what
is computed from weights alone do not count. Views (Reshape, Flatten, Squeeze, Unsqueeze, Identity) take no
memory of their own; no other operator is assumed to work in place, and no padding or workspace is counted.

Q/DQ graphs describe integer kernels in float, so not every tensor in the file exists at run time:
- DequantizeLinear's float output is not stored when all its readers are integer kernels: operators whose
output is
  quantized again, or products (Conv, Gemm, MatMul), which accumulate in integers whatever they write. The
  int8 tensor before it lives until they have read it.
- An operator whose inputs all come from DequantizeLinear (or are constants) and whose output only
QuantizeLinear
  reads writes the int8 tensor straight away. The same with a Relu or Clip in between, which is fused. A view
  between DequantizeLinear and QuantizeLinear is a view of the int8 tensor.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import onnx_ir as ir

__all__ = ["Lifetimes", "constant_values", "lifetimes", "lives", "runs_in_integers"]

VIEWS = frozenset({"Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"})
PRODUCTS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
FUSED = frozenset({"Clip", "Relu"})


@dataclass(frozen=True)
class Lifetimes:
    """What each step holds and writes, bytes; one entry a node, in graph order."""

    live_bytes: tuple[int, ...]
    output_bytes: tuple[int, ...]


def constant_values(graph: ir.Graph) -> frozenset[ir.Value]:
    """Weights, and everything that is computed from weights alone."""
    constants = set(graph.initializers.values())
    for node in graph:
        if all(value is None or value in constants for value in node.inputs):
            constants.update(node.outputs)
    return frozenset(constants)


def lifetimes(nodes: Sequence[ir.Node], graph: ir.Graph, constants: frozenset[ir.Value]) -> Lifetimes:
    """Live and written bytes of every step: `nodes` are those of `graph` that do not compute constants.

    Every shape has to be known as numbers.
    """
    roots = _roots(nodes, constants)
    inputs = [value for value in graph.inputs if value.name not in graph.initializers]

    def holder(value: ir.Value) -> ir.Value | None:
        root = _follow(roots, value)
        return None if value in constants or root in constants else root

    change = [0] * (len(nodes) + 1)
    written = [0] * len(nodes)
    for root, (begin, end) in lives(nodes, graph, holder).items():
        size = tensor_bytes(root)
        change[begin] += size
        change[end + 1] -= size
        if root not in inputs:
            written[begin] += size
    return Lifetimes(tuple(itertools.accumulate(change[:-1])), tuple(written))


def lives(
    nodes: Sequence[ir.Node], graph: ir.Graph, holder: Callable[[ir.Value], ir.Value | None]
) -> dict[ir.Value, tuple[int, int]]:
    """Tensor -> the first and the last step that it is alive in, by the definitions above.

    `holder` says which tensor holds a value: itself, or another whose memory it shares; None where it takes none.
    """
    position = {node: index for index, node in enumerate(nodes)}
    inputs = [value for value in graph.inputs if value.name not in graph.initializers]
    found: dict[ir.Value, tuple[int, int]] = {}
    for value in (*inputs, *(output for node in nodes for output in node.outputs if output.name)):
        root = holder(value)
        if root is None:
            continue
        producer = value.producer()
        begin = 0 if producer is None else position[producer]
        readers = [position[reader] for reader, _ in value.uses() if reader in position]
        end = len(nodes) - 1 if value.is_graph_output() else max(readers, default=begin)
        first, last = found.get(root, (begin, end))
        found[root] = min(first, begin), max(last, end)
    return found


def runs_in_integers(node: ir.Node, constants: frozenset[ir.Value]) -> bool:
    """Whether a runtime can run the node in integers, by the rules above.

    Q and DQ themselves, views of integer tensors and quantized operators do; of the others those whose inputs
    are all dequantized and whose output is quantized, fused Relu and Clip included.
    """
    if node.domain != "" or node.op_type.startswith(("QLinear", "QuantizeLinear", "DequantizeLinear")):
        return node.op_type.startswith(("Q", "Dequantize"))
    data = [value for value in node.inputs if value is not None and value not in constants]
    if all(value.dtype is not None and value.dtype.is_integer() for value in data):
        return True
    return _quantized(node.outputs[0]) is not None and _from_integers(node, constants)


def tensor_bytes(value: ir.Value) -> int:
    """Bytes of a tensor of static shape, by its dtype (float32 where the graph does not say)."""
    bits = value.dtype.bitwidth if value.dtype is not None else 32
    dims = [dim for dim in value.shape or () if isinstance(dim, int)]
    return math.ceil(math.prod(dims) * bits / 8)


def _roots(nodes: Sequence[ir.Node], constants: frozenset[ir.Value]) -> dict[ir.Value, ir.Value]:
    """Value -> the tensor that holds it, for those that are not stored themselves."""
    roots: dict[ir.Value, ir.Value] = {}
    for node in nodes:
        source = node.inputs[0] if node.inputs else None
        if source is None or not node.outputs:
            continue
        output = node.outputs[0]
        if node.op_type in VIEWS or (node.op_type == "DequantizeLinear" and _read_by_integers(output)):
            roots[output] = source
            if node.op_type in VIEWS and (same := _quantized(output)) and _from_integers(node, constants):
                roots[same] = output
        elif node.op_type != "QuantizeLinear" and (quantized := _quantized(output)) and _from_integers(node, constants):
            roots[output] = quantized
    return roots


def _follow(roots: dict[ir.Value, ir.Value], value: ir.Value) -> ir.Value:
    seen = {value}
    while value in roots and roots[value] not in seen:
        value = roots[value]
        seen.add(value)
    return value


def _only_reader(value: ir.Value) -> ir.Node | None:
    readers = [reader for reader, _ in value.uses()]
    return readers[0] if len(readers) == 1 and not value.is_graph_output() else None


def _quantized(value: ir.Value) -> ir.Value | None:
    """The int8 tensor that `value` becomes and is only read as; None when it is read in float."""
    reader = _only_reader(value)
    if reader is None or not reader.outputs:
        return None
    if reader.op_type == "QuantizeLinear":
        return reader.outputs[0]
    after = _only_reader(reader.outputs[0]) if reader.op_type in FUSED else None
    return after.outputs[0] if after is not None and after.op_type == "QuantizeLinear" else None


def _from_integers(node: ir.Node, constants: frozenset[ir.Value]) -> bool:
    """Whether all it reads was quantized: dequantized, constant, or a fused operator's own quantized
    input.
    """
    for source in node.inputs:
        if source is None or source in constants:
            continue
        producer = source.producer()
        if producer is None:
            return False
        if producer.op_type == "DequantizeLinear":
            continue
        if node.op_type not in FUSED or _only_reader(source) is not node:
            return False
        if producer.op_type in FUSED or not _from_integers(producer, constants):
            return False
    return True


def _read_by_integers(value: ir.Value) -> bool:
    if value.is_graph_output() or not value.uses():
        return False
    return all(
        reader.op_type in PRODUCTS or (reader.outputs and _quantized(reader.outputs[0]) is not None)
        for reader, _ in value.uses()
    )
