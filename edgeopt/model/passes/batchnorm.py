"""BatchNormalization at inference is `x * a + b` per channel, which the layer before it can do itself.

With a = scale / sqrt(var + epsilon) and b = shift - mean * a (Ioffe and Szegedy 2015, section 3.1), a
convolution with weights W and bias c becomes one with W * a (along its output channels) and c * a + b.
Computed in float64, stored as float32. The weight keeps its name, and the bias is called like it, with
`bias` for `weight`.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgeopt.model.passes.edit import add_constant, attribute, bypass, constant_of, replace_node

__all__ = ["expand_batchnorm", "fold_batchnorm"]


def fold_batchnorm(model: ir.Model) -> int:
    """Fold each BatchNormalization into the Conv, ConvTranspose or Gemm that alone feeds it."""
    folded = 0
    for node in list(model.graph):
        if _is_inference_form(node):
            folded += _fold(model.graph, node)
    return folded


def expand_batchnorm(model: ir.Model) -> int:
    """Write each remaining BatchNormalization as Mul and Add, which integer kernels exist for."""
    expanded = 0
    for node in list(model.graph):
        affine = _affine(node) if _is_inference_form(node) else None
        source = node.inputs[0] if node.inputs else None
        if affine is None or source is None or source.shape is None:
            continue
        form = (1, -1) + (1,) * (source.shape.rank() - 2)
        name = node.inputs[1].name or node.name or "batchnorm"  # type: ignore[union-attr]
        factor, shift = (part.astype(np.float32).reshape(form) for part in affine)
        scaled = ir.node("Mul", [source, add_constant(model.graph, f"{name}.factor", factor)])
        scaled.outputs[0].name = f"{node.outputs[0].name}.scaled"
        scaled.outputs[0].shape, scaled.outputs[0].type = source.shape, source.type
        shift_value = add_constant(model.graph, f"{name}.shift", shift)
        replace_node(node, [scaled, ir.node("Add", [scaled.outputs[0], shift_value])])
        expanded += 1
    return expanded


def _is_inference_form(node: ir.Node) -> bool:
    return (
        node.op_type == "BatchNormalization"
        and node.domain == ""
        and not attribute(node, "training_mode", 0)
        and not any(extra.uses() for extra in node.outputs[1:])
    )


def _affine(node: ir.Node) -> tuple[np.ndarray, np.ndarray] | None:
    """Factor and shift per channel, float64 [C]; None when a statistic is not a constant."""
    parts = [constant_of(value) for value in node.inputs[1:5]]
    if len(parts) < 4 or any(part is None for part in parts):
        return None
    scale, shift, mean, variance = (np.asarray(part, np.float64) for part in parts)
    factor = scale / np.sqrt(variance + float(attribute(node, "epsilon", 1e-5)))  # type: ignore[arg-type]
    return factor, shift - mean * factor


def _fold(graph: ir.Graph, node: ir.Node) -> bool:
    source = node.inputs[0]
    layer = source.producer() if source is not None else None
    if source is None or layer is None or layer.domain != "" or len(source.uses()) != 1:
        return False
    if source in graph.outputs or layer.graph is not node.graph:
        return False
    affine, weight = _affine(node), constant_of(layer.inputs[1] if len(layer.inputs) > 1 else None)
    factors = None if affine is None or weight is None else _along_outputs(layer, weight, affine[0])
    bias = _bias(layer, len(affine[0])) if affine is not None else None
    if affine is None or weight is None or factors is None or bias is None:
        return False
    weight_name = layer.inputs[1].name or "weight"  # type: ignore[union-attr]
    _set_input(graph, layer, 1, weight_name, (weight * factors).astype(np.float32))
    _set_input(graph, layer, 2, _bias_name(layer, weight_name), (bias * affine[0] + affine[1]).astype(np.float32))
    return bypass(node, layer.outputs[0])


def _along_outputs(layer: ir.Node, weight: np.ndarray, factor: np.ndarray) -> np.ndarray | None:
    """`factor` shaped to multiply a weight along its output channels; None for layers not known."""
    match layer.op_type:
        case "Conv":
            form = (-1,) + (1,) * (weight.ndim - 1)
            return factor.reshape(form) if weight.shape[0] == len(factor) else None
        case "ConvTranspose":  # [C_in, C_out / group, ...]: group g writes channels g*n .. (g+1)*n
            group = int(attribute(layer, "group", 1))  # type: ignore[call-overload]
            if weight.shape[1] * group != len(factor):
                return None
            per_group = factor.reshape(group, 1, -1)
            rows = np.repeat(per_group, weight.shape[0] // group, axis=1).reshape(weight.shape[0], -1)
            return rows.reshape(rows.shape + (1,) * (weight.ndim - 2))
        case "Gemm":
            columns = factor.reshape((-1, 1) if attribute(layer, "transB", 0) else (1, -1))
            axis = 0 if attribute(layer, "transB", 0) else 1
            return columns if weight.shape[axis] == len(factor) else None
    return None


def _bias(layer: ir.Node, channels: int) -> np.ndarray | None:
    """The layer's bias as float64 [channels], zeros when it has none; None when it is computed or a
    matrix.
    """
    value = layer.inputs[2] if len(layer.inputs) > 2 else None
    if value is None:
        return np.zeros(channels)
    bias = constant_of(value)
    if bias is None or bias.size not in (1, channels) or attribute(layer, "beta", 1.0) != 1.0:
        return None
    return np.broadcast_to(bias.astype(np.float64).reshape(-1), channels)


def _bias_name(layer: ir.Node, weight_name: str) -> str:
    value = layer.inputs[2] if len(layer.inputs) > 2 else None
    own = value is not None and len(value.uses()) == 1 and "." in (value.name or "")
    if own and value is not None and value.name:
        return value.name
    stem = weight_name.removesuffix("weight")
    return f"{stem}bias" if stem != weight_name else f"{weight_name}.bias"


def _set_input(graph: ir.Graph, layer: ir.Node, index: int, name: str, array: np.ndarray) -> None:
    """Give the layer a constant of its own; one that others read too stays as it is for them."""
    old = layer.inputs[index] if len(layer.inputs) > index else None
    if len(layer.inputs) <= index:
        layer.resize_inputs(index + 1)
    layer.replace_input_with(index, None)
    if old is not None and old.is_initializer() and not old.uses() and old.name:
        graph.initializers.pop(old.name, None)
    layer.replace_input_with(index, add_constant(graph, name, array))
