"""What a model costs: parameters, multiply-adds, file and activation memory, in all and layer by layer.

Definitions: `edgeopt.model.macs` says what a MAC is, `edgeopt.model.memory` what peak RAM is. Parameters
are the elements of weight tensors, each tensor once: those a torch module would list, so that scales, zero
points, shapes and BatchNormalization's running statistics do not count.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from edgeopt.errors import StageFailed
from edgeopt.model.child import model_name
from edgeopt.model.feeds import random_feeds
from edgeopt.model.macs import count_macs
from edgeopt.model.memory import constant_values, lifetimes
from edgeopt.model.model import Model
from edgeopt.model.shapes import infer_shapes, measure_shapes, set_batch, set_sizes, static_shape

__all__ = ["Layer", "Profile", "layer_name", "node_label", "profile", "with_shapes"]

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
KEEPERS = frozenset({"Cast", "DequantizeLinear", "Transpose"})
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
    sizes: dict[str, int] = field(default_factory=dict)
    """Dynamic dims besides the batch -> the size that the costs are for; empty where every size is fixed."""


def profile(model: Model, batch: int = 1, *, feeds: Mapping[str, np.ndarray] | None = None) -> Profile:
    """Costs of one inference of `batch` samples.

    A dynamic dim besides the batch has the size that it has in `feeds`, one sample by input name, or the one that
    `random_feeds` makes up. Raises StageFailed when a shape is not known: an unknown operator.
    """
    shaped, sizes = with_shapes(model, batch, feeds=feeds)
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
        file_bytes=model.size_bytes,
        peak_ram_bytes=peak.live_bytes if peak else 0,
        peak_layer=peak.name if peak else "",
        layers=tuple(layers),
        sizes=sizes,
    )


def with_shapes(
    model: Model, batch: int = 1, *, feeds: Mapping[str, np.ndarray] | None = None
) -> tuple[Model, dict[str, int]]:
    """A new model in which every shape is in numbers, and what `Profile.sizes` tells; raises what `profile` does."""
    sized, sizes = _with_sizes(model, batch, feeds or {})
    return _with_all_shapes(infer_shapes(sized, batch)), sizes


def _with_sizes(model: Model, batch: int, feeds: Mapping[str, np.ndarray]) -> tuple[Model, dict[str, int]]:
    """A model whose inputs are open in the batch alone, and what was put for the other open dims."""
    sized = model.copy()
    set_batch(sized, batch)
    if all(isinstance(dim, int) for info in sized.inputs for dim in info.shape):
        return model, {}
    made_up = random_feeds(sized, batch)
    sizes: dict[str, int] = {}
    shapes: dict[str, list[int]] = {}
    for info in sized.inputs:
        given = feeds.get(info.name)
        array = given if given is not None and given.ndim == len(info.shape) else made_up[info.name]
        shape = shapes[info.name] = []
        for axis, dim in enumerate(info.shape):
            if isinstance(dim, int):
                shape.append(dim)
            else:
                name = dim if dim != "?" else f"{info.name}[{axis}]"
                shape.append(sizes.setdefault(name, array.shape[axis]))
    set_sizes(sized, shapes)
    return sized, sizes


def _with_all_shapes(shaped: Model) -> Model:
    """The model with what inference left open measured by running it once. Raises StageFailed."""
    if _unknown(shaped):
        shaped = measure_shapes(shaped)
    unknown = _unknown(shaped)
    if unknown:
        raise StageFailed(
            f"the shape of {', '.join(unknown[:3])} is not known" + (" ..." if len(unknown) > 3 else ""),
            where=model_name(shaped),
            fix="export the model with a fixed input size, or replace the operators that make these values",
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
        name=node_label(node),
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


def node_label(node: ir.Node) -> str:
    """What a node is called in reports: its layer, or else its own name."""
    return layer_name(node) or node.name or node.outputs[0].name or node.op_type


def layer_name(node: ir.Node) -> str:
    """What torch calls the layer, by its weight (`layer1.0.conv1`), or "" for a node without one."""
    for value in node.inputs:
        source = value
        while source is not None and source.const_value is None:
            maker = source.producer()
            kept = maker is not None and (maker.op_type in KEEPERS or _scales_weight(maker))
            source = maker.inputs[0] if maker is not None and kept else None
        stem, found, _ = ((source.name if source is not None else "") or "").partition(".weight")
        if found and stem:
            return stem
    return ""


def _scales_weight(node: ir.Node) -> bool:
    """Cast(int8) * scale: a weight in fewer bytes."""
    maker = node.inputs[0].producer() if node.op_type == "Mul" and node.inputs[0] is not None else None
    scale = node.inputs[1] if len(node.inputs) > 1 else None
    return maker is not None and maker.op_type == "Cast" and scale is not None and scale.const_value is not None
