"""The training form of a Q/DQ graph, and the way back.

`to_training` puts one FakeQuantize in the place of each Q/DQ pair and gives the layers' integers their float values
back; all else stays, names included. So the module that `to_torch` makes of it computes what the integer graph
computes, and can be trained. `to_integers` writes what was learned into the Q/DQ graph: the same nodes, other
constants.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edgeopt.errors import StageFailed
from edgeopt.model.frozen import freeze
from edgeopt.model.model import Model
from edgeopt.model.passes.edit import add_constant, attribute, constant_of, replace_node
from edgeopt.model.torch_ops.fake_quantize import BIAS_LEVELS, DOMAIN, SMALLEST_SCALE
from edgeopt.quantize.operators import COMPUTE, WITH_BIAS
from edgeopt.quantize.qat.floats import along, layer_floats, start_values

__all__ = ["Constant", "Training", "to_integers", "to_training"]

BYTES = (np.dtype(np.int8), np.dtype(np.uint8))


@dataclass(frozen=True)
class Constant:
    """A quantized constant, and the float initializer that stands for it in training."""

    integers: str
    """Initializer of the Q/DQ graph."""
    values: str
    """Initializer of the training graph, float32 of the same shape."""
    scales: tuple[str, ...]
    """Initializers whose product is the scale: one, or for a bias those of its layer's input and weight."""
    scale: str
    """The initializer that holds the product in the Q/DQ graph."""
    axis: int | None
    ends: tuple[int, int]
    """Smallest and largest integer, from the zero point."""
    zero_point: int


@dataclass(frozen=True)
class Training:
    """The training graph, and which of its tensors become which integers."""

    model: Model
    scales: frozenset[str]
    """Initializers that are scales, of the same name in both graphs."""
    constants: tuple[Constant, ...]


def to_training(quantized: Model, floating: Model) -> Training:
    """`quantized` with fake quantization in the place of Q and DQ.

    `floating` is the graph that it was made from, with layers of the same names: its weights are the start where they
    round to the integers of `quantized`; what a refinement rounded in another way starts at its integer.
    Raises StageFailed for a Q and DQ of different scales.
    """
    changed = quantized.copy()
    rewriter = _Rewriter(changed.graph.graph, floating)
    dequantizers = [node for node in changed.graph.graph if node.op_type == "DequantizeLinear"]
    for node in dequantizers:
        rewriter.replace_pair(node)
        rewriter.replace_constant(node)
    for node in dequantizers:  # by now the scales of their layers are known
        rewriter.replace_bias(node)
    rewriter.drop_unused()
    changed.graph.opset_imports[DOMAIN] = 1
    return Training(changed, frozenset(rewriter.scales), tuple(rewriter.constants))


def to_integers(trained: Training, quantized: Model) -> Model:
    """A copy of `quantized` with what `trained.model` learned: integers, scales, and the weights of float layers."""
    values = trained.model.weights()
    arrays = {name: values[name] for name in quantized.weights() if name in values}
    arrays |= {name: np.maximum(arrays[name], np.float32(SMALLEST_SCALE)) for name in trained.scales}
    for constant in trained.constants:
        scale = np.asarray(arrays[constant.scales[0]], np.float32)
        for other in constant.scales[1:]:
            scale = np.asarray(scale * arrays[other], np.float32)
        old = quantized.weights()[constant.integers]
        steps = values[constant.values] / along(scale, constant.axis, old.ndim)
        integers = np.clip(np.rint(steps), *constant.ends) + constant.zero_point
        arrays[constant.integers] = integers.astype(old.dtype)
        arrays[constant.scale] = scale
    return _with_arrays(quantized, arrays)


def _with_arrays(model: Model, arrays: dict[str, np.ndarray]) -> Model:
    """A copy of the model with other initializers; those that are equal stay the very same tensors."""
    changed = model.copy()
    for name, array in arrays.items():
        value = changed.graph.graph.initializers[name]
        assert value.const_value is not None
        if value.const_value.numpy().tobytes() != array.tobytes():
            value.const_value = ir.tensor(
                np.ascontiguousarray(array).reshape(value.const_value.shape.numpy()), name=name
            )
    return changed


class _Rewriter:
    """One graph on its way to the training form."""

    def __init__(self, graph: ir.Graph, floating: Model) -> None:
        self.graph = graph
        self.layers = {node.name: node for node in floating.graph.graph.all_nodes() if node.op_type in COMPUTE}
        self.scales: set[str] = set()
        self.constants: list[Constant] = []

    def replace_pair(self, node: ir.Node) -> None:
        """Q and this DQ become one FakeQuantize."""
        quantize = node.inputs[0].producer() if node.inputs[0] is not None else None
        if quantize is None or quantize.op_type != "QuantizeLinear":
            return
        if [*quantize.inputs[1:]] != [*node.inputs[1:]] or constant_of(node.inputs[1]) is None:
            raise StageFailed(
                f"node {node.name!r} undoes {quantize.name!r} with another scale or zero point",
                where="qat",
                fix="quantize the float model with edgeopt, static ranges",
            )
        _, ends = _levels(node)
        self._put(node, "FakeQuantize", [quantize.inputs[0], node.inputs[1]], ends, None)

    def replace_constant(self, node: ir.Node) -> None:
        """This DQ of int8 or uint8 becomes FakeQuantizeWeight of floats."""
        integers, scale = constant_of(node.inputs[0]), constant_of(node.inputs[1])
        if integers is None or scale is None or integers.dtype not in BYTES or not _one_zero_point(node):
            return
        zero, (low, high) = _levels(node)
        axis = int(attribute(node, "axis", 1)) if scale.ndim else None  # type: ignore[call-overload]
        layer = next((user for user, index in node.outputs[0].uses() if user.op_type in COMPUTE and index == 1), None)
        if layer is not None and zero == 0 and low not in integers:
            low = -high  # symmetric weights leave -128 unused
        floats = self._floats(layer, 1) if layer is not None else None
        start = start_values(integers.astype(np.int32) - zero, scale, axis, (low, high), floats)
        value = self._hold(node, start, (node.inputs[1],), axis, (low, high), zero)
        if layer is None:
            freeze(value)
        self._put(node, "FakeQuantizeWeight", [value, node.inputs[1]], (low, high), axis)

    def replace_bias(self, node: ir.Node) -> None:
        """This DQ of an int32 bias becomes FakeQuantizeBias, with the scales of its layer's input and weight."""
        integers = constant_of(node.inputs[0])
        scale = constant_of(node.inputs[1])
        layers = [user for user, index in node.outputs[0].uses() if user.op_type in WITH_BIAS and index == 2]
        if integers is None or scale is None or integers.dtype != np.int32 or not layers:
            return
        units = {_scales_of(layer) for layer in layers}
        scales = units.pop()
        if units or None in scales:
            raise StageFailed(
                f"the integer bias {node.inputs[0].name!r} is not in units of one input and one weight",  # type: ignore[union-attr]
                where="qat",
                fix="quantize without --qat, or exclude the layers that share it",
            )
        ends = (-BIAS_LEVELS, BIAS_LEVELS)
        start = start_values(integers, scale, 0, ends, self._floats(layers[0], 2))
        value = self._hold(node, start, scales, 0, ends, 0)
        self._put(node, "FakeQuantizeBias", [value, *scales], None, None)

    def drop_unused(self) -> None:
        """Remove the Q nodes and the integers that nothing reads any more."""
        for node in reversed(list(self.graph)):
            if node.op_type == "QuantizeLinear" and not node.outputs[0].uses():
                self.graph.remove(node, safe=True)
        for name, value in list(self.graph.initializers.items()):
            if not value.uses() and not value.is_graph_output():
                del self.graph.initializers[name]

    def _floats(self, user: ir.Node, index: int) -> np.ndarray | None:
        layer = self.layers.get(user.name)
        return None if layer is None else layer_floats(layer, index)

    def _hold(
        self,
        node: ir.Node,
        start: np.ndarray,
        scales: tuple[ir.Value | None, ...],
        axis: int | None,
        ends: tuple[int, int],
        zero_point: int,
    ) -> ir.Value:
        """A new float initializer for the constant that `node` dequantizes."""
        integers, scale = node.inputs[0], node.inputs[1]
        assert integers is not None
        assert scale is not None
        value = add_constant(self.graph, (integers.name or "").removesuffix("_quantized"), start)
        names = tuple(s.name or "" for s in scales if s is not None)
        self.constants.append(
            Constant(integers.name or "", value.name or "", names, scale.name or "", axis, ends, zero_point)
        )
        return value

    def _put(
        self,
        node: ir.Node,
        operator: str,
        inputs: list[ir.Value | None],
        ends: tuple[int, int] | None,
        axis: int | None,
    ) -> None:
        """An operator of the training domain in the place of a DQ."""
        attributes = {} if ends is None else {"low": ends[0], "high": ends[1]}
        attributes |= {} if axis is None else {"axis": axis}
        replace_node(node, [ir.node(operator, inputs, attributes, domain=DOMAIN, name=node.name)])
        if operator != "FakeQuantizeBias" and inputs[1] is not None:
            self.scales.add(inputs[1].name or "")


def _scales_of(layer: ir.Node) -> tuple[ir.Value | None, ...]:
    """The learned scales of a layer's input and weight; None for one that has none."""
    makers = [value.producer() if value is not None else None for value in layer.inputs[:2]]
    return tuple(maker.inputs[1] if maker is not None and maker.domain == DOMAIN else None for maker in makers)


def _levels(node: ir.Node) -> tuple[int, tuple[int, int]]:
    """Zero point of a Q or DQ, and the smallest and largest integer counted from it."""
    zero = constant_of(node.inputs[2]) if len(node.inputs) > 2 else np.zeros((), np.uint8)
    assert zero is not None
    info, point = np.iinfo(zero.dtype), int(zero.reshape(-1)[0])
    return point, (int(info.min) - point, int(info.max) - point)


def _one_zero_point(node: ir.Node) -> bool:
    zero = constant_of(node.inputs[2]) if len(node.inputs) > 2 else np.zeros((), np.uint8)
    return zero is not None and np.unique(zero).size == 1
