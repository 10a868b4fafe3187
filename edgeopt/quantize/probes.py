"""Statistics computed inside the graph: nodes appended for the extremes and a sample of each observed tensor.

So onnxruntime frees each activation as soon as its readers are done, as in plain inference, and what comes back is
small.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edgeopt.model.model import Model

__all__ = ["SAMPLED", "Dims", "Probe", "add_probes", "dims_of", "elements"]

SAMPLED = 4096
"""At most about this many values of a tensor are counted for each image (extremes always see all of them). 256 images
make a million, of which a hundred lie beyond the 99.99th percentile."""
AXES_ARE_INPUTS = 18
"""The opset from which ReduceMin and ReduceMax take their axes as an input."""

Dims = tuple[int | str | None, ...]
"""Of a tensor: numbers, and names (or None) for what is not known."""


@dataclass(frozen=True)
class Probe:
    """Names of the extra outputs for one tensor; `sample` is None where only extremes are asked for."""

    tensor: str
    low: str
    high: str
    """Extremes: of each image [n] where the first dim is the batch, else of all of it."""
    sample: str | None
    elements: int
    """Values of the tensor for one image, as far as its shape is known."""


def add_probes(
    model: Model, tensors: Sequence[str], counts: bool, known: Mapping[str, Dims] | None = None
) -> tuple[Model, list[Probe]]:
    """The model with the statistics as further outputs, and where to find them.

    `known` holds dims that `model` does not state itself; `counts` asks for samples besides extremes.
    """
    probed = model.copy()
    graph = probed.graph.graph
    values = {v.name: v for v in (*graph.inputs, *(v for node in graph for v in node.outputs))}
    batches = {value.shape[0] for value in graph.inputs if value.shape is not None and value.shape.rank()}
    adder = _Adder(graph, probed.graph.opset_imports.get("", 1), batches)
    wanted = dict.fromkeys(tensors)
    # onnxruntime takes what nobody reads from the back: so each probe runs as soon as its tensor is there, and the
    # tensor is free before the next one is made. The other way round every activation would live to the end.
    order = [value for value in reversed(values.values()) if value.name in wanted]
    return probed, [adder.add(value, (known or {}).get(value.name or "") or dims_of(value), counts) for value in order][
        ::-1
    ]


def dims_of(value: ir.Value) -> Dims:
    """What the graph says of a value's dims; () where it does not even know how many there are."""
    return tuple(dim if isinstance(dim, int) else dim.value for dim in value.shape or ())


def elements(dims: Dims) -> int:
    """Values for one image, as far as the shape is known."""
    return math.prod(dim for dim in dims[1:] if isinstance(dim, int))


class _Adder:
    """Appends probes to a graph, in place; `batches` holds the first dims of its inputs."""

    def __init__(self, graph: ir.Graph, opset: int, batches: set[int | ir.SymbolicDim]) -> None:
        self.graph, self.opset, self.batches = graph, opset, batches
        self.constants: dict[tuple[int, ...], ir.Value] = {}

    def add(self, value: ir.Value, dims: Dims, counts: bool) -> Probe:
        by_image = value.shape is not None and value.shape.rank() > 1 and value.shape[0] in self.batches
        low, high = self._reduce("ReduceMin", value, by_image), self._reduce("ReduceMax", value, by_image)
        made = [low, high, self._sample(value, dims, by_image)] if counts else [low, high]
        self.graph.outputs.extend(made)
        names = [output.name or "" for output in made]
        return Probe(value.name or "", names[0], names[1], names[2] if counts else None, elements(dims))

    def _reduce(self, kind: str, value: ir.Value, by_image: bool) -> ir.Value:
        if not by_image:
            return self._node(kind, [value], value, {"keepdims": 0})
        axes = list(range(1, value.shape.rank()))  # type: ignore[union-attr]
        if self.opset >= AXES_ARE_INPUTS:
            return self._node(kind, [value, self._vector(*axes)], value, {"keepdims": 0})
        return self._node(kind, [value], value, {"keepdims": 0, "axes": axes})

    def _sample(self, value: ir.Value, dims: Dims, by_image: bool) -> ir.Value:
        """A strided sample of every image, or of all of the tensor where its first dim is not the batch."""
        stride = _stride(dims[1:] if by_image else dims)
        flat = self._node("Flatten", [value], value, {"axis": 1 if by_image else 0})
        if stride == 1:
            return flat
        bounds = [self._vector(n) for n in (0, np.iinfo(np.int64).max, 1, stride)]
        return self._node("Slice", [flat, *bounds], value, {})

    def _node(
        self, kind: str, inputs: Sequence[ir.Value], of: ir.Value, attributes: Mapping[str, int | list[int]]
    ) -> ir.Value:
        node = ir.node(kind, inputs, attributes)
        output: ir.Value = node.outputs[0]
        output.name, output.type = f"{of.name}_probe_{kind}", ir.TensorType(ir.DataType.FLOAT)
        self.graph.append(node)
        return output

    def _vector(self, *numbers: int) -> ir.Value:
        """A constant int64 vector, one for all who ask for the same numbers."""
        if numbers not in self.constants:
            name = "probe_" + "_".join(map(str, numbers))
            tensor = ir.tensor(np.array(numbers, np.int64), name=name)
            kind = ir.TensorType(ir.DataType.INT64)
            value = ir.Value(name=name, shape=ir.Shape([len(numbers)]), type=kind, const_value=tensor)
            self.graph.register_initializer(value)
            self.constants[numbers] = value
        return self.constants[numbers]


def _stride(dims: Dims) -> int:
    """Step through the values of a shape that leaves about SAMPLED of them, without falling into step with a dim:
    it has no factor in common with any. Unknown dims count as 1."""
    sizes = [dim for dim in dims if isinstance(dim, int)]
    size = math.prod(sizes)
    stride = max(1, size // SAMPLED)
    while math.gcd(stride, size) > 1:
        stride += 1
    return stride
