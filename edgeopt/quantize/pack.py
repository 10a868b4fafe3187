"""Float weights stored in fewer bytes, at no cost when the model runs: a smaller file, the same arithmetic.

The forms are Cast(int8) * scale and Cast(float16), of constants. A runtime computes that once, when it loads the file,
and then has the float weight it always had: onnxruntime folds the nodes before it lays weights out for its kernels
(mobilenet_v3_small: the optimized graph and the latency of the float model at 26 % of the file). DequantizeLinear would
say the same, and onnxruntime keeps it in the graph on purpose, to fuse it into an integer kernel: where there is none,
it runs at every inference.

float16 loses next to nothing (2^-12 of each weight), int8 as much as in any int8 file: mobilenet_v3_small with random
weights gives 17.6 dB when every weight of an otherwise float model is int8. So there is a limit to state: with one,
weights are packed only until the file is that small, in float16 as long as that will do.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edgeopt.model.model import Model
from edgeopt.model.passes.edit import add_constant, constant_of
from edgeopt.quantize.operators import COMPUTE
from edgeopt.quantize.weights import MaxScale, WeightScale, quantize_weight, weight_axis

__all__ = ["pack_weights", "store_as_integers"]

OVERHEAD = 512
"""Bytes of two nodes and two constants with their names: a weight that saves no more than that stays as it is."""
LARGEST_HALF = 65504.0
MAX = MaxScale()


def pack_weights(
    model: Model,
    names: Collection[str] | None = None,
    method: WeightScale = MAX,
    *,
    most_bytes: int | None = None,
) -> Model:
    """A copy of `model` whose float weights of Conv, ConvTranspose, Gemm and MatMul are stored in fewer bytes.

    `names` are node names, None: every node. `method` chooses the int8 scale of each output channel. Without
    `most_bytes` every weight becomes int8. With it, the largest become float16 until the file is that small; if all of
    them are not enough, the largest become int8 until it is; if that is not enough either, all are int8.

    A weight that several nodes read is stored once if all of them may change, and left alone otherwise, as are biases,
    graph outputs, weights too small to gain by it and nodes in bodies of control flow. Raises nothing.
    """
    changed = model.copy()
    graph = changed.graph.graph
    packable = sorted(_packable(graph, names), key=lambda weight: -weight.array.size)
    halves: list[_Weight] = []
    integers: list[_Weight] = packable
    if most_bytes is not None:
        halves, integers = _share_out(packable, model.size_bytes - most_bytes)
    for weight in integers:
        _replace(graph, weight, store_as_integers(graph, weight.value, weight.array, weight.axis, method))
    for weight in halves:
        _replace(graph, weight, _store_as_halves(graph, weight))
    return changed


@dataclass(frozen=True)
class _Weight:
    """A float32 initializer that only layers read, as their weight."""

    value: ir.Value
    array: np.ndarray
    axis: int | None

    @property
    def saved_as_integers(self) -> int:
        scales = self.array.shape[self.axis] if self.axis is not None else 1
        return 3 * self.array.size - 4 * scales - OVERHEAD

    @property
    def saved_as_halves(self) -> int:
        return 2 * self.array.size - OVERHEAD

    @property
    def fits_halves(self) -> bool:
        return bool(np.abs(self.array).max() <= LARGEST_HALF)


def _packable(graph: ir.Graph | ir.Function, names: Collection[str] | None) -> list[_Weight]:
    found = []
    assert isinstance(graph, ir.Graph)
    for value in graph.initializers.values():
        readers = list(value.uses())
        if not readers or value.is_graph_output() or not all(_wanted(node, i, names) for node, i in readers):
            continue
        array = constant_of(value)
        if (
            array is None
            or array.dtype != np.float32
            or array.ndim < 2
            or any(n.graph is not graph for n, _ in readers)
        ):
            continue
        axes = {weight_axis(node, array.ndim) for node, _ in readers}
        if len(axes) == 1:
            weight = _Weight(value, array, axes.pop())
            if weight.saved_as_integers > 0:
                found.append(weight)
    return found


def _share_out(packable: Sequence[_Weight], excess: int) -> tuple[list[_Weight], list[_Weight]]:
    """Weights to store in float16 and in int8 so that `excess` bytes go, the largest first."""
    halves: list[_Weight] = []
    integers: list[_Weight] = []
    for weight in packable:
        if excess > 0 and weight.fits_halves and weight.saved_as_halves > 0:
            halves.append(weight)
            excess -= weight.saved_as_halves
    for weight in packable:
        if excess > 0:
            integers.append(weight)
            excess -= weight.saved_as_integers - (weight.saved_as_halves if weight in halves else 0)
    return [weight for weight in halves if weight not in integers], integers


def _replace(graph: ir.Graph | ir.Function, weight: _Weight, stored: ir.Value) -> None:
    for reader, index in list(weight.value.uses()):
        reader.replace_input_with(index, stored)
    assert isinstance(graph, ir.Graph)
    assert weight.value.name is not None
    del graph.initializers[weight.value.name]


def _store_as_halves(graph: ir.Graph | ir.Function, weight: _Weight) -> ir.Value:
    """Cast(float16) in place of the weight."""
    assert isinstance(graph, ir.Graph)
    name = weight.value.name
    half = add_constant(graph, f"{name}_half", weight.array.astype(np.float16))
    cast = ir.node("Cast", [half], {"to": ir.DataType.FLOAT.value}, name=f"{name}_cast")
    output = cast.outputs[0]
    output.name, output.shape = f"{name}_cast", ir.Shape(weight.array.shape)
    output.type = ir.TensorType(ir.DataType.FLOAT)
    graph.insert_before(graph[0], cast)
    return output


def store_as_integers(
    graph: ir.Graph | ir.Function, value: ir.Value, weight: np.ndarray, axis: int | None, method: WeightScale = MAX
) -> ir.Value:
    """Cast(int8) * scale in place of the float32 `weight` that `value` holds; the product, for its readers to read.

    `axis` is the one of output channels, each of which gets a scale; None: one scale for all.
    """
    assert isinstance(graph, ir.Graph)
    tensor = quantize_weight(weight, axis, method=method)
    shape = [-1 if dim == axis else 1 for dim in range(weight.ndim)] if axis is not None else []
    integers = add_constant(graph, f"{value.name}_quantized", tensor.integers)
    scale = add_constant(graph, f"{value.name}_scale", tensor.scale.reshape(shape))
    cast = ir.node("Cast", [integers], {"to": ir.DataType.FLOAT.value}, name=f"{integers.name}_cast")
    product = ir.node("Mul", [cast.outputs[0], scale], name=f"{integers.name}_dequantize")
    for node, part in ((cast, "cast"), (product, "dequantized")):
        output = node.outputs[0]
        output.name, output.shape = f"{integers.name}_{part}", ir.Shape(weight.shape)
        output.type = ir.TensorType(ir.DataType.FLOAT)
    graph.insert_before(graph[0], [cast, product])
    return product.outputs[0]


def _wanted(node: ir.Node, index: int, names: Collection[str] | None) -> bool:
    """Whether input `index` is the weight of a layer that may change."""
    known = node.domain in ("", "ai.onnx") and node.op_type in COMPUTE
    return known and index == 1 and (names is None or node.name in names)
