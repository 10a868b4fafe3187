"""The integer layers of a Q/DQ model: what a refinement reads of them, and how it puts other integers in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edgeopt.model.model import Model
from edgeopt.model.passes.edit import attribute, constant_of
from edgeopt.quantize.operators import WITH_BIAS

__all__ = ["IntegerLayer", "integer_layers", "with_layers", "with_scales"]


@dataclass(frozen=True)
class IntegerLayer:
    """A Conv, ConvTranspose, Gemm or MatMul whose input and weight come out of DequantizeLinear."""

    name: str
    """Of the node, the same as in the float model."""
    operator: str
    weight: np.ndarray
    """int8, as the operator lays it out."""
    weight_scale: np.ndarray
    """float32, a scalar or [channels along `axis`]."""
    axis: int | None
    bias: np.ndarray | None
    """int32 in units of `bias_scale`, or float32 where the tier keeps biases in float; None without one."""
    bias_scale: np.ndarray | None
    """float32 scalar or [channels]; None where the bias is float."""
    input_scale: float
    input_zero_point: int


def integer_layers(model: Model) -> list[IntegerLayer]:
    """The integer layers of a Q/DQ model, in the order of the graph."""
    found = []
    for node in model.graph.graph:
        layer = _layer(node)
        if layer is not None:
            found.append(layer)
    return found


def with_layers(model: Model, changes: Mapping[str, tuple[np.ndarray | None, np.ndarray | None]]) -> Model:
    """A copy with other constants: node name -> (int8 weight or None, bias in the dtype it has or None).

    A constant that several layers share is replaced for the named layer only. Raises KeyError for a name without an
    integer layer, ValueError for another shape or dtype.
    """
    changed = model.copy()
    nodes = {node.name: node for node in changed.graph.graph if _layer(node) is not None}
    for name, (weight, bias) in changes.items():
        if weight is not None:
            _replace(nodes[name], 1, weight)
        if bias is not None:
            _replace(nodes[name], 2, bias)
    _drop_unused(changed.graph.graph)
    return changed


def with_scales(model: Model, scales: Mapping[str, np.ndarray]) -> Model:
    """A copy with other weight scales (node name -> float32, the shape it has); an integer bias's scale follows.

    Raises KeyError for a name without an integer layer, ValueError for another shape or dtype.
    """
    changed = model.copy()
    nodes = {node.name: (node, layer) for node in changed.graph.graph if (layer := _layer(node)) is not None}
    for name, scale in scales.items():
        node, layer = nodes[name]
        _replace(node, 1, scale, position=1)
        if layer.bias_scale is not None:
            _replace(node, 2, np.asarray(np.float32(layer.input_scale) * scale, np.float32), position=1)
    _drop_unused(changed.graph.graph)
    return changed


def _layer(node: ir.Node) -> IntegerLayer | None:
    if node.op_type not in ("Conv", "ConvTranspose", "Gemm", "MatMul") or len(node.inputs) < 2:
        return None
    data, weight = _dequantizer(node, 0), _dequantizer(node, 1)
    if data is None or weight is None:
        return None
    integers = constant_of(weight.inputs[0])
    if integers is None or integers.dtype != np.int8:
        return None
    scale = constant_of(weight.inputs[1])
    input_scale = constant_of(data.inputs[1])
    zero = constant_of(data.inputs[2]) if len(data.inputs) > 2 else np.zeros((), np.int8)
    assert scale is not None
    assert input_scale is not None
    assert zero is not None
    bias, bias_scale = _bias(node)
    return IntegerLayer(
        name=node.name or "",
        operator=node.op_type,
        weight=integers,
        weight_scale=scale,
        axis=int(attribute(weight, "axis", 1)) if scale.ndim else None,  # type: ignore[call-overload]
        bias=bias,
        bias_scale=bias_scale,
        input_scale=float(input_scale),
        input_zero_point=int(zero),
    )


def _bias(node: ir.Node) -> tuple[np.ndarray | None, np.ndarray | None]:
    if node.op_type not in WITH_BIAS or len(node.inputs) < 3 or node.inputs[2] is None:
        return None, None
    dequantizer = _dequantizer(node, 2)
    if dequantizer is None:
        return constant_of(node.inputs[2]), None
    return constant_of(dequantizer.inputs[0]), constant_of(dequantizer.inputs[1])


def _dequantizer(node: ir.Node, index: int) -> ir.Node | None:
    value = node.inputs[index]
    maker = value.producer() if value is not None else None
    return maker if maker is not None and maker.op_type == "DequantizeLinear" else None


def _replace(node: ir.Node, index: int, array: np.ndarray, position: int = 0) -> None:
    """Give the node a constant of its own with these values: input `position` of the DequantizeLinear that makes its
    input `index`, or that input itself where it is bare."""
    graph = node.graph
    assert isinstance(graph, ir.Graph)
    dequantizer = _dequantizer(node, index)
    holder, position = (node, index) if dequantizer is None else (dequantizer, position)
    old = holder.inputs[position]
    before = constant_of(old)
    if old is None or before is None or before.shape != array.shape or before.dtype != array.dtype:
        found = "nothing" if before is None else f"{before.dtype}{list(before.shape)}"
        raise ValueError(f"{node.name}: {array.dtype}{list(array.shape)} cannot stand for {found}")
    if dequantizer is not None and len(dequantizer.outputs[0].uses()) > 1:
        holder = _own_dequantizer(dequantizer, node, index)
    name = _free(graph, f"{node.name}_{'weight' if index == 1 else 'bias'}_{'scale_' * position}refined")
    tensor = ir.tensor(array, name=name)
    value = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.register_initializer(value)
    holder.replace_input_with(position, value)


def _own_dequantizer(shared: ir.Node, node: ir.Node, index: int) -> ir.Node:
    """A copy of a DequantizeLinear that several layers read, for `node` alone."""
    assert isinstance(node.graph, ir.Graph)
    names = {other.name for other in node.graph}
    name = f"{node.name}_{index}_dq"
    while name in names:
        name += "_"
    own = ir.node("DequantizeLinear", list(shared.inputs), dict(shared.attributes), name=name)
    result, like = own.outputs[0], shared.outputs[0]
    result.name, result.type, result.shape = f"{name}_output", like.type, like.shape
    node.graph.insert_before(shared, own)
    node.replace_input_with(index, result)
    return own


def _free(graph: ir.Graph, wanted: str) -> str:
    taken = set(graph.initializers) | {value.name for value in graph.inputs}
    taken |= {value.name for node in graph for value in node.outputs}
    while wanted in taken:
        wanted += "_"
    return wanted


def _drop_unused(graph: ir.Graph) -> None:
    for name, value in list(graph.initializers.items()):
        if not value.uses() and not value.is_graph_output():
            del graph.initializers[name]
