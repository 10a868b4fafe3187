"""What a model costs: parameters, multiply-adds, file and activation memory, in all and layer by layer.

Definitions: `edgeopt.model.macs` says what a MAC is, `edgeopt.model.memory` what peak RAM is. Parameters
are the elements of weight tensors, each tensor once: those a torch module would list, so that scales, zero
points, shapes and BatchNormalization's running statistics do not count.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from edgeopt.errors import StageFailed
from edgeopt.model.child import model_name
from edgeopt.model.macs import count_macs
from edgeopt.model.memory import constant_values, lifetimes
from edgeopt.model.model import Model
from edgeopt.model.shapes import infer_shapes, measure_shapes, static_shape

__all__ = ["Layer", "Profile", "layer_name", "profile"]

WEIGHT_INPUTS = {
    "BatchNormalization": (1, 2),
    "Clip": (),
    "DequantizeLinear": (),
    "HardSigmoid": (),
    "QLinearConv": (3, 8),
    "QLinearMatMul": (3,),
    "QuantizeLinear": (),
    "Resize": (),
}
"""Inputs that hold parameters, where it is not simply every constant of numbers with more than one
element.
"""

CONVERTERS = frozenset({"DequantizeLinear", "QuantizeLinear"})
KEEPERS = frozenset({"DequantizeLinear", "Transpose"})
"""Operators through which a weight is still the layer's weight."""


@dataclass(frozen=True)
class Layer:
    """One node of the graph. A Q/DQ pair belongs to the operator it feeds or follows and is no layer."""

    name: str
    """What the weights are called in torch (`layer1.0.conv1`), or the node's name."""
    op: str
    params: int
    macs: int
    weight_bytes: int
    """Constants as they are stored, scales and zero points included."""
    output_bytes: int
    live_bytes: int
    """All activations alive while it runs."""


@dataclass(frozen=True)
class Profile:
    """Costs of one inference of one batch."""

    params: int
    macs: int
    file_bytes: int
    peak_ram_bytes: int
    peak_layer: str
    layers: tuple[Layer, ...]


def profile(model: Model, batch: int = 1) -> Profile:
    """Costs of one inference of `batch` samples.

    Raises StageFailed when a shape is not known: a dynamic dim besides the batch, or an unknown operator.
    """
    shaped = _with_all_shapes(infer_shapes(model, batch))
    graph = shaped.graph.graph
    constants = constant_values(graph)
    nodes = [node for node in graph if not constants.issuperset(node.outputs)]
    memory = lifetimes(nodes, graph, constants)
    counted: set[str] = set()
    layers = []
    for node, live, written in zip(nodes, memory.live_bytes, memory.output_bytes, strict=True):
        layer = _layer(node, live, written, constants, counted)
        if node.op_type not in CONVERTERS or layer.output_bytes:
            layers.append(layer)
    peak = max(layers, key=lambda layer: layer.live_bytes, default=None)
    return Profile(
        params=sum(layer.params for layer in layers),
        macs=sum(layer.macs for layer in layers),
        file_bytes=model.to_proto().ByteSize(),
        peak_ram_bytes=peak.live_bytes if peak else 0,
        peak_layer=peak.name if peak else "",
        layers=tuple(layers),
    )


def _with_all_shapes(shaped: Model) -> Model:
    """The model with what inference left open measured by running it once. Raises StageFailed."""
    if _unknown(shaped):
        shaped = measure_shapes(shaped)
    unknown = _unknown(shaped)
    if unknown:
        raise StageFailed(
            f"the shape of {', '.join(unknown[:3])} is not known" + (" ..." if len(unknown) > 3 else ""),
            where=model_name(shaped),
            fix="export the model with a fixed input size (only the batch may be dynamic)",
        )
    return shaped


def _unknown(model: Model) -> list[str]:
    values = [*model.graph.graph.inputs, *(v for node in model.graph.graph for v in node.outputs if v.uses())]
    return [value.name or "?" for value in values if static_shape(value) is None]


def _layer(node: ir.Node, live: int, written: int, constants: frozenset[ir.Value], counted: set[str]) -> Layer:
    behind = [_stored(value) if value in constants else None for value in node.inputs]
    fresh = [value for value in _all_constants(node, constants) if value.name not in counted]
    counted |= {value.name or "" for value in fresh}
    positions = WEIGHT_INPUTS.get(node.op_type, tuple(range(len(behind))))
    weights = [behind[index] for index in positions if index < len(behind)]
    own = [value for value in weights if value is not None and value in fresh and _is_parameter(value)]
    inputs = [static_shape(value) or () for value in node.inputs]
    outputs = [static_shape(value) or () for value in node.outputs]
    return Layer(
        name=layer_name(node) or node.name or node.outputs[0].name or node.op_type,
        op=node.op_type,
        params=sum(value.const_value.size for value in own if value.const_value is not None),
        macs=count_macs(node, inputs, outputs),
        weight_bytes=sum(value.const_value.nbytes for value in fresh if value.const_value is not None),
        output_bytes=written,
        live_bytes=live,
    )


def _stored(value: ir.Value | None) -> ir.Value | None:
    """The initializer behind a constant: itself, or what DequantizeLinear and the like make it from."""
    while value is not None and value.const_value is None:
        node = value.producer()
        value = node.inputs[0] if node is not None and node.inputs else None
    return value


def _all_constants(node: ir.Node, constants: frozenset[ir.Value]) -> list[ir.Value]:
    """Every initializer that the node reads, directly or through constant nodes; each once, in order."""
    found: dict[ir.Value, None] = {}
    pending: list[ir.Value | None] = [value for value in node.inputs[::-1] if value in constants]
    while pending:
        value = pending.pop()
        producer = value.producer() if value is not None else None
        if value is not None and value.const_value is not None:
            found[value] = None
        elif producer is not None:
            pending += producer.inputs[::-1]
    return list(found)


def _is_parameter(value: ir.Value) -> bool:
    """Numbers, more than one, and no shape or index."""
    tensor = value.const_value
    indices = (ir.DataType.INT64, ir.DataType.BOOL, ir.DataType.STRING)
    return tensor is not None and tensor.size > 1 and tensor.dtype not in indices


def layer_name(node: ir.Node) -> str:
    """What torch calls the layer, by its weight (`layer1.0.conv1`), or "" for a node without one."""
    for value in node.inputs:
        source = value
        while source is not None and source.const_value is None:
            maker = source.producer()
            source = maker.inputs[0] if maker is not None and maker.op_type in KEEPERS else None
        stem, found, _ = ((source.name if source is not None else "") or "").partition(".weight")
        if found and stem:
            return stem
    return ""
