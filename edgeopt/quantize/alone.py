"""One layer in integers, every other in float: what that layer by itself does to the model's output.

Running the whole model once for each layer would be as many passes as there are layers. Here the float values that
cross the graph just before a layer are kept for a few samples and moved forward from layer to layer, so that only the
rest of the graph, from the layer on, runs again: half of the work on average, with one small session at a time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edgeopt.model.model import Model
from edgeopt.model.passes.edit import add_constant
from edgeopt.quantize.build import Built
from edgeopt.quantize.layers import IntegerLayer, integer_layers
from edgeopt.quantize.operators import SHARING
from edgeopt.quantize.ranges import Grid
from edgeopt.quantize.weights import QuantizedTensor

__all__ = ["Frontier", "Rounding", "crossing_bytes", "roundings"]

Feeds = dict[str, np.ndarray]


@dataclass(frozen=True)
class Rounding:
    """Everything that is rounded for one layer of an integer model."""

    name: str
    """Of the node, in the float graph."""
    operator: str
    result: str
    """Tensor that the layer makes: its output, or that of a clip that is folded into it."""
    inputs: dict[int, Grid]
    """Position of an input -> the grid of the pair it is read through."""
    output: Grid | None
    """Of the pair on `result`; None where it is not rounded."""
    layer: IntegerLayer | None
    """Integer weight and bias; None for an operator without."""


def roundings(model: Model, built: Built) -> list[Rounding]:
    """The layers that `built` runs in integers, in the order of the float graph `model`.

    Nodes that only hand numbers on round nothing that their neighbours do not, and are left out.
    """
    layers = {layer.name: layer for layer in integer_layers(built.model)}
    clips = {maker: clip for clip, maker in built.plan.folded.items()}
    inputs: dict[str, dict[int, Grid]] = {}
    outputs: dict[str, Grid] = {}
    for point in built.plan.points:
        outputs[point.tensor] = built.grids[point.group]
        for name, index in point.uses:
            inputs.setdefault(name, {})[index] = built.grids[point.group]
    nodes = {node.name or "": node for node in model.graph.graph}
    found = []
    for name, node in nodes.items():
        if name not in built.plan.integer or name in built.plan.folded or node.op_type in SHARING:
            continue
        result = nodes[clips.get(name, name)].outputs[0].name or ""
        layer = layers.get(name)
        found.append(Rounding(name, node.op_type, result, inputs.get(name, {}), outputs.get(result), layer))
    return found


class Frontier:
    """A float model run up to some node, for a few samples in batches."""

    def __init__(self, model: Model, batches: Sequence[Feeds]) -> None:
        self._model = model
        self._nodes = list(model.graph.graph)
        self._positions = {node.name: index for index, node in enumerate(self._nodes)}
        self._last_use = _last_uses(model.graph.graph, self._nodes)
        self._at = 0
        self._held = [dict(batch) for batch in batches]

    def outputs(self) -> list[np.ndarray]:
        """The model's first output for each batch, from here on: all in float."""
        return self._run_rest(None)

    def outputs_with(self, rounding: Rounding) -> list[np.ndarray]:
        """The first output for each batch with this layer in integers; layers are asked for in the graph's order."""
        self._advance(self._cut(self._positions[rounding.name]))
        return self._run_rest(rounding)

    def _cut(self, position: int) -> int:
        """The last place up to `position` where every crossing value has a known type, so that it can be fed."""
        while position > self._at and any(value.dtype is None for value in self._crossing(position)):
            position -= 1
        return max(position, self._at)

    def _crossing(self, position: int) -> list[ir.Value]:
        """Values made before the node at `position` and read there or later."""
        graph = self._model.graph.graph
        made = [v for v in graph.inputs if v.name not in graph.initializers]
        made += [value for node in self._nodes[:position] for value in node.outputs]
        return [value for value in made if self._last_use.get(value, -1) >= position]

    def _advance(self, position: int) -> None:
        if position <= self._at:
            return
        here, there = self._crossing(self._at), self._crossing(position)
        fresh = [value for value in there if value not in set(here)]
        if fresh:
            run = _Part(self._model, here, fresh)
            self._held = [held | run(held) for held in self._held]
        names = {value.name for value in there}
        self._held = [{name: array for name, array in held.items() if name in names} for held in self._held]
        self._at = position

    def _run_rest(self, rounding: Rounding | None) -> list[np.ndarray]:
        crossing = self._crossing(self._at)
        first = self._model.graph.graph.outputs[0]
        if first in crossing:
            return [held[first.name or ""] for held in self._held]
        run = _Part(self._model, crossing, [first], rounding)
        return [next(iter(run(held).values())) for held in self._held]


class _Part:
    """The stretch of a model between some values and others, as a function of arrays."""

    def __init__(
        self, model: Model, inputs: Sequence[ir.Value], outputs: Sequence[ir.Value], rounding: Rounding | None = None
    ) -> None:
        from edgeopt.model.runtime import open_session

        graph = ir.convenience.extract(model.graph.graph, inputs, outputs)
        if rounding is not None:
            _apply(graph, rounding)
        part = Model(ir.Model(graph, ir_version=model.graph.ir_version, functions=list(model.graph.functions.values())))
        self._session = open_session(part)
        self._wanted = [value.name or "" for value in inputs]
        self._made = [value.name or "" for value in outputs]

    def __call__(self, held: Feeds) -> Feeds:
        from edgeopt.model.runtime import run

        found = run(self._session, {name: held[name] for name in self._wanted})
        return dict(zip(self._made, found, strict=True))


def crossing_bytes(model: Model) -> int:
    """The most that the values at one place of the graph take for one sample, as far as shapes are known."""
    graph = model.graph.graph
    nodes = list(graph)
    last = _last_uses(graph, nodes)
    births: dict[int, int] = {}
    for position, values in enumerate([graph.inputs, *(node.outputs for node in nodes)]):
        for value in values:
            if value in last:
                size = _bytes_per_sample(value)
                births[position] = births.get(position, 0) + size
                births[last[value] + 1] = births.get(last[value] + 1, 0) - size
    alive = largest = 0
    for position in sorted(births):
        alive += births[position]
        largest = max(largest, alive)
    return largest


def _bytes_per_sample(value: ir.Value) -> int:
    dims = list(value.shape or [])[1:]
    return 4 * math.prod(dim for dim in dims if isinstance(dim, int))


def _last_uses(graph: ir.Graph, nodes: Sequence[ir.Node]) -> dict[ir.Value, int]:
    """Position of the last node that reads a value; the end for an output and for what the body of an If reads."""
    positions = {node: index for index, node in enumerate(nodes)}
    end = len(nodes)
    last = {}
    for value in (*graph.inputs, *(v for node in nodes for v in node.outputs)):
        uses = [positions.get(user, end) for user, _ in value.uses()]
        if value.is_graph_output():
            uses.append(end)
        if uses:
            last[value] = max(uses)
    return last


def _apply(graph: ir.Graph, rounding: Rounding) -> None:
    """Round what the layer reads, its constants and what it makes, by Q/DQ pairs between floats."""
    node = next(node for node in graph if node.name == rounding.name)
    for index, grid in rounding.inputs.items():
        source = node.inputs[index]
        assert source is not None
        pair = _pair(graph, source, grid)
        graph.insert_before(node, pair)
        node.replace_input_with(index, pair[1].outputs[0])
    if rounding.layer is not None:
        _round_constants(graph, node, rounding.layer)
    if rounding.output is not None:
        _round_result(graph, rounding.result, rounding.output)


def _round_constants(graph: ir.Graph, node: ir.Node, layer: IntegerLayer) -> None:
    weight = QuantizedTensor(layer.weight, layer.weight_scale, layer.axis).dequantize()
    node.replace_input_with(1, add_constant(graph, f"{node.name}_rounded_weight", weight))
    if layer.bias is not None:
        bias = layer.bias if layer.bias_scale is None else layer.bias * layer.bias_scale
        bias = np.asarray(bias, np.float32)
        node.replace_input_with(2, add_constant(graph, f"{node.name}_rounded_bias", bias))
    if node.op_type == "Gemm":  # the integer layer's constants hold both factors
        node.attributes.pop("alpha", None)
        node.attributes.pop("beta", None)


def _round_result(graph: ir.Graph, name: str, grid: Grid) -> None:
    value = next(value for node in graph for value in node.outputs if value.name == name)
    readers = list(value.uses())
    quantize, dequantize = _pair(graph, value, grid)
    maker = value.producer()
    assert maker is not None
    graph.insert_after(maker, [quantize, dequantize])
    result = dequantize.outputs[0]
    for user, index in readers:
        user.replace_input_with(index, result)
    for position, output in enumerate(graph.outputs):
        if output is value:
            result.shape = value.shape
            graph.outputs[position] = result


def _pair(graph: ir.Graph, value: ir.Value, grid: Grid) -> list[ir.Node]:
    scale = add_constant(graph, f"{value.name}_scale", np.asarray(grid.scale, np.float32))
    zero = add_constant(graph, f"{value.name}_zero_point", np.asarray(grid.zero_point, grid.dtype))
    quantize = ir.node("QuantizeLinear", [value, scale, zero])
    quantize.outputs[0].name = f"{scale.name}_quantized"
    dequantize = ir.node("DequantizeLinear", [quantize.outputs[0], scale, zero])
    result = dequantize.outputs[0]
    result.name, result.type = f"{scale.name}_dequantized", ir.TensorType(ir.DataType.FLOAT)
    return [quantize, dequantize]
