"""Write a plan into a graph: integer weights, Q/DQ pairs, and no clip where a pair already clips."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from typing import Any

import numpy as np
import onnx_ir as ir

from edgeopt.model.model import Model
from edgeopt.model.passes.edit import attribute, constant_of
from edgeopt.quantize.operators import WITH_BIAS, clip_bounds
from edgeopt.quantize.plan import Plan, Point
from edgeopt.quantize.ranges import Grid
from edgeopt.quantize.weights import (
    MaxScale,
    QuantizedTensor,
    WeightScale,
    quantize_bias,
    quantize_weight,
    weight_axis,
)
from edgeopt.tiers import Placement

__all__ = ["insert"]


def insert(
    model: Model,
    plan: Plan,
    grids: Mapping[str, Grid],
    placement: Placement,
    method: WeightScale = MaxScale(),  # noqa: B008 - frozen
) -> Model:
    """A new model with the plan's Q/DQ pairs, weights and biases. `grids` has one entry for each group of points."""
    changed = model.copy()
    editor = _Editor(changed.graph.graph)
    inputs = {use: grids[point.group] for point in plan.points for use in point.uses}
    for name in plan.weights:
        editor.quantize_weights(editor.nodes[name], inputs[name, 0], placement, method)
    for point in plan.points:
        editor.add_pair(point, grids[point.group], editor.nodes.get(_clip_of(point, plan, editor)))
    for name in plan.floating:
        if editor.nodes[name].op_type in WITH_BIAS:
            editor.keep_float(editor.nodes[name])
    editor.drop_unused()
    return changed


def _clip_of(point: Point, plan: Plan, editor: _Editor) -> str:
    """Name of the folded clip that makes the point's tensor, or "" when none does."""
    maker = editor.values[point.tensor].producer()
    return maker.name or "" if maker is not None and maker.name in plan.folded else ""


class _Editor:
    """One graph under change, with what was added to it so far."""

    def __init__(self, graph: ir.Graph) -> None:
        self.graph = graph
        self.nodes = {node.name or "": node for node in graph.all_nodes()}
        computed = (value for node in graph for value in node.outputs)
        self.values = {v.name: v for v in (*graph.inputs, *graph.initializers.values(), *computed)}
        self.first = graph[0]
        self.names = {v.name for node in graph.all_nodes() for v in node.outputs} | set(self.values)
        self._constants: dict[tuple[Any, ...], ir.Value] = {}
        self._dequantized: dict[tuple[Any, ...], ir.Value] = {}

    def quantize_weights(self, node: ir.Node, input_grid: Grid, placement: Placement, method: WeightScale) -> None:
        """Replace the weight (and the bias, where the tier wants it) of a layer by DequantizeLinear of integers."""
        weight_value = node.inputs[1]
        assert weight_value is not None
        weight, bias = _weight_and_bias(node)
        axis = weight_axis(node, weight.ndim) if placement.weights == "per_channel" else None
        integer_bias = bias if placement.quantize_bias else None
        quantized = quantize_weight(weight, axis, integer_bias, float(input_grid.scale), method)
        node.replace_input_with(1, self._dequantize(quantized, weight_value.name or "", node))
        if bias is None:
            return
        name = node.inputs[2].name or "" if node.inputs[2] is not None else ""
        if placement.quantize_bias:
            integers = quantize_bias(bias, input_grid.scale, quantized.scale)
            node.replace_input_with(2, self._dequantize(integers, name, node))
        elif bias is not constant_of(node.inputs[2]):
            node.replace_input_with(2, self._constant(f"{name}_scaled", bias))

    def add_pair(self, point: Point, grid: Grid, clip: ir.Node | None) -> None:
        """Q and DQ on one tensor; `clip`, which makes the tensor, goes if the pair clips as it does."""
        value = self.values[point.tensor]
        scale = self._constant(f"{point.group}_scale", np.asarray(grid.scale))
        zero = self._constant(f"{point.group}_zero_point", np.asarray(grid.zero_point, grid.dtype))
        if value.const_value is not None:
            integers = grid.quantize(value.const_value.numpy())
            quantized = self._constant(f"{point.tensor}_quantized", integers)
        else:
            source = clip.inputs[0] if clip is not None and _saturates(clip, grid) else value
            quantize = ir.node("QuantizeLinear", [source, scale, zero], name=self._name(f"{point.tensor}_q"))
            self._place(quantize, value)
            quantized = quantize.outputs[0]
            self._describe(quantized, f"{point.tensor}_quantized", value, ir.DataType.from_numpy(grid.dtype))
        dequantize = ir.node("DequantizeLinear", [quantized, scale, zero], name=self._name(f"{point.tensor}_dq"))
        self._place(dequantize, quantized)
        result = dequantize.outputs[0]
        for name, index in point.uses:
            self.nodes[name].replace_input_with(index, result)
        self._describe(result, f"{point.tensor}_dequantized", value, ir.DataType.FLOAT)
        if point.graph_output:
            self._become_output(value, result)
        if clip is not None and not value.uses() and not value.is_graph_output():
            self.graph.remove(clip, safe=True)

    def keep_float(self, node: ir.Node) -> None:
        """Give a float layer that reads a DequantizeLinear one of its own, whose equal scales are written once for
        each channel.

        Between DequantizeLinear and QuantizeLinear onnxruntime (WeightBiasQuantization, since 1.21) rounds float
        weights to int8 by itself, with one scale for the whole tensor: a layer that was kept in float for its accuracy
        would lose more than it did in integers. It leaves layers alone whose input has a scale for each channel.
        """
        channels, value = _input_channels(node), node.inputs[0]
        maker = value.producer() if value is not None else None
        if channels is None or value is None or maker is None or maker.op_type != "DequantizeLinear":
            return
        scale, zero = (constant_of(source) for source in maker.inputs[1:3])
        assert scale is not None
        assert zero is not None
        name = f"{maker.inputs[0].name if maker.inputs[0] is not None else node.name}_for_float"
        sources = [maker.inputs[0]]
        for part, array in (("scale", scale), ("zero_point", zero)):
            sources.append(self._constant(f"{name}_{part}", np.full(channels, array, array.dtype)))
        own = ir.node("DequantizeLinear", sources, {"axis": 1}, name=self._name(f"{name}_dq"))
        self.graph.insert_before(node, own)
        self._describe(own.outputs[0], f"{name}_dequantized", value, ir.DataType.FLOAT)
        node.replace_input_with(0, own.outputs[0])
        if not value.uses() and not value.is_graph_output():
            self.graph.remove(maker, safe=True)

    def drop_unused(self) -> None:
        """Remove the float constants that nobody reads any more."""
        for name, value in list(self.graph.initializers.items()):
            if not value.uses() and not value.is_graph_output():
                del self.graph.initializers[name]

    def _dequantize(self, tensor: QuantizedTensor, name: str, node: ir.Node) -> ir.Value:
        """DequantizeLinear of a constant; one serves all layers that want the same integers and scale."""
        key = (name, tensor.axis, tensor.scale.tobytes(), sha256(tensor.integers.tobytes()).digest())
        if key not in self._dequantized:
            inputs = [
                self._constant(f"{name}_quantized", tensor.integers, fresh=True),
                self._constant(f"{name}_scale", tensor.scale, fresh=True),
            ]
            if tensor.integers.dtype == np.int8:  # a bias needs none, and would double in size
                zeros = np.zeros(tensor.scale.shape, np.int8)
                inputs.append(self._constant(f"{name}_zero_point", zeros, fresh=True))
            axis = {} if tensor.axis is None else {"axis": tensor.axis}
            dequantize = ir.node("DequantizeLinear", inputs, axis, name=self._name(f"{name}_dq"))
            self.graph.insert_before(self.first, dequantize)
            result = dequantize.outputs[0]
            self._describe(result, f"{name}_dequantized", node.inputs[1], ir.DataType.FLOAT)
            result.shape = ir.Shape(tensor.integers.shape)
            self._dequantized[key] = result
        return self._dequantized[key]

    def _constant(self, name: str, array: np.ndarray, *, fresh: bool = False) -> ir.Value:
        """An initializer; asked for again with the same name and values, the same one unless `fresh`."""
        key = (name, array.dtype, array.shape, array.tobytes() if array.size < 16 else b"")
        if fresh or key not in self._constants:
            free = self._name(name)
            tensor = ir.tensor(array, name=free)
            kind = ir.TensorType(tensor.dtype)
            value = ir.Value(name=free, shape=ir.Shape(array.shape), type=kind, const_value=tensor)
            self.graph.register_initializer(value)
            self._constants[key] = value
        return self._constants[key]

    def _place(self, node: ir.Node, after: ir.Value) -> None:
        """Put the node where `after` is there already."""
        maker = after.producer()
        if maker is None or maker.graph is not self.graph:
            self.graph.insert_before(self.first, node)
        else:
            self.graph.insert_after(maker, node)

    def _describe(self, value: ir.Value, name: str, like: ir.Value | None, dtype: ir.DataType) -> None:
        value.name, value.type = self._name(name), ir.TensorType(dtype)
        value.shape = like.shape if like is not None else None

    def _become_output(self, value: ir.Value, result: ir.Value) -> None:
        """The graph's output of that name is `result` from now on."""
        name = value.name
        value.name, result.name = self._name(f"{name}_float"), name
        for index, output in enumerate(self.graph.outputs):
            if output is value:
                self.graph.outputs[index] = result

    def _name(self, wanted: str) -> str:
        """`wanted`, or `wanted.1`, `wanted.2` ... when that is taken."""
        name, number = wanted, 0
        while name in self.names:
            number += 1
            name = f"{wanted}.{number}"
        self.names.add(name)
        return name


def _input_channels(node: ir.Node) -> int | None:
    """Length of axis 1 of what a Conv, ConvTranspose or Gemm reads; None when its weight is computed (and no concern)
    or a Gemm's input is transposed."""
    weight = constant_of(node.inputs[1])
    if weight is None or weight.dtype != np.float32 or attribute(node, "transA", 0):
        return None
    if node.op_type == "Conv":
        return int(weight.shape[1]) * node.attributes.get_int("group", 1)
    return int(weight.shape[1 if node.op_type == "Gemm" and attribute(node, "transB", 0) else 0])


def _weight_and_bias(node: ir.Node) -> tuple[np.ndarray, np.ndarray | None]:
    """float32 arrays with a Gemm's alpha and beta multiplied in (and taken off the node); bias [channels]."""
    weight = constant_of(node.inputs[1])
    has_bias = node.op_type in WITH_BIAS and len(node.inputs) > 2
    bias = constant_of(node.inputs[2]) if has_bias else None
    assert weight is not None
    if node.op_type != "Gemm":
        return weight, bias
    alpha, beta = (np.float32(attribute(node, key, 1.0)) for key in ("alpha", "beta"))  # type: ignore[arg-type]
    node.attributes.pop("alpha", None)
    node.attributes.pop("beta", None)
    channels = weight.shape[weight_axis(node, 2) or 0]
    if bias is not None and (bias.shape != (channels,) or beta != 1.0):
        bias = np.broadcast_to(bias.reshape(-1) * beta, [channels])
    return weight if alpha == 1.0 else weight * alpha, bias


def _saturates(clip: ir.Node, grid: Grid) -> bool:
    """Whether Q clips as `clip` does, so that the node can go: both bounds lie at the ends of the grid.

    One level short of an end counts: where float32 rounding puts a bound there, values beyond it gain one step.
    A bound at zero (every Relu) is never short.
    """
    bounds = clip_bounds(clip)
    if bounds is None:
        return False
    smallest, largest = grid.levels
    low, high = (int(level) for level in grid.quantize(np.array(bounds, np.float32)).astype(np.int64))
    return low <= smallest + (bounds[0] != 0) and high >= largest - 1
