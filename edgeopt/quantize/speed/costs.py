"""What a node costs on onnxruntime's CPU provider, in float and in integers: a model with a dozen constants.

The constants were fitted to kernel times of onnxruntime 1.32 in mobilenet_v2, mobilenet_v3_small, efficientnet_b0 and
resnet50 (224 px, batch 1, one thread, x64 with AVX512-VNNI). What they say, besides the numbers: an integer product is
three times as fast as a float one, a depthwise convolution gains nothing (and loses where its channels are no multiple
of 16), a small node costs what starting it costs, and a tensor that changes sides pays for QuantizeLinear or
DequantizeLinear, a transposition (integer convolutions are NHWC) and a reordering (float ones are blocked).
They decide where nothing is measured; where it is, they only say which placements are worth measuring.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import onnx_ir as ir

from edgeopt.model.macs import Shape, count_macs
from edgeopt.model.passes.edit import attribute
from edgeopt.quantize.operators import COMPUTE, has_weight

__all__ = ["TYPICAL", "Costs", "elements", "shape_of"]

BLOCK = 16
FEW_CHANNELS = 8
"""Below this many input channels (an image's) an integer convolution gathers its windows byte by byte."""
STRAIGHT_THROUGH = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Dropout"})
"""Operators that move nothing."""
PER_ELEMENT = {
    "Add": (0.04, 0.1),
    "Sub": (0.07, 0.1),
    "Mul": (0.1, 0.19),
    "Sigmoid": (0.1, 0.26),
    "LeakyRelu": (0.07, 0.26),
    "HardSwish": (0.18, 0.18),
    "HardSigmoid": (0.09, 0.09),
    "AveragePool": (0.1, 0.12),
    "GlobalAveragePool": (0.06, 0.1),
    "MaxPool": (0.1, 0.08),
    "Relu": (0.0, 0.0),
    "Clip": (0.0, 0.0),
}
"""Nanoseconds for each element of the largest tensor it touches, float and integer. Clips are parts of their makers."""
OTHERWISE = (0.07, 0.05)


@dataclass(frozen=True)
class Costs:
    """Nanoseconds."""

    node: float = 1500.0
    convolution: tuple[float, float] = (2500.0, 4500.0)
    """Starting one; float, integer."""
    mac: tuple[float, float] = (0.0095, 0.0026)
    depthwise_mac: tuple[float, float] = (0.023, 0.027)
    odd_depthwise_mac: float = 0.075
    """Integer, where the channels are no multiple of 16."""
    weight: tuple[float, float] = (0.085, 0.03)
    """For each weight: it is read once, which is what a product of one row costs."""
    output: float = 0.05
    """For each output of an integer product: it is scaled and rounded."""
    window: float = 1.5
    """For each position of the kernel over an image of few channels, integer."""
    quantize: tuple[float, float] = (3000.0, 0.15)
    """A tensor's way from float to integers: once, for each element."""
    dequantize: tuple[float, float] = (4000.0, 0.2)
    rounding: float = 3000.0
    """What a node that rounds its result has to gain: speed for accuracy."""

    def scaled(self, *, products: float = 1.0, conversions: float = 1.0, rounding: float = 1.0) -> Costs:
        """Costs of a machine whose integer products or whose conversions take that many times as long, or where
        rounding is that much more to be avoided."""
        float_mac, integer_mac = self.mac
        float_weight, integer_weight = self.weight
        return replace(
            self,
            mac=(float_mac, integer_mac * products),
            weight=(float_weight, integer_weight * products),
            quantize=(self.quantize[0] * conversions, self.quantize[1] * conversions),
            dequantize=(self.dequantize[0] * conversions, self.dequantize[1] * conversions),
            rounding=self.rounding * rounding,
        )

    def of_node(self, node: ir.Node) -> tuple[float, float]:
        """Nanoseconds of the node in float and in integers, for one sample."""
        inputs, outputs = [shape_of(v) for v in node.inputs], [shape_of(v) for v in node.outputs]
        if node.op_type in COMPUTE and has_weight(node):
            return self._product(node, inputs, outputs)
        if node.op_type in STRAIGHT_THROUGH:
            return self.node, self.node
        macs = count_macs(node, inputs, outputs)
        largest = max(math.prod(shape) for shape in (*inputs, *outputs))
        float_rate, integer_rate = PER_ELEMENT.get(node.op_type, OTHERWISE)
        start = 0.0 if node.op_type in ("Relu", "Clip") else self.node
        return (
            start + macs * self.mac[0] + largest * float_rate,
            start + macs * self.mac[1] + largest * integer_rate,
        )

    def _product(self, node: ir.Node, inputs: list[Shape], outputs: list[Shape]) -> tuple[float, float]:
        macs, made, weights = count_macs(node, inputs, outputs), math.prod(outputs[0]), math.prod(inputs[1])
        start = self.convolution if node.op_type in ("Conv", "ConvTranspose") else (self.node, self.node)
        if node.op_type == "Conv" and attribute(node, "group", 1) != 1:
            return start[0] + macs * self.depthwise_mac[0], start[1] + macs * self._integer_depthwise(inputs[1])
        padded = 1.0
        windows = 0.0
        if node.op_type == "Conv":
            channels = inputs[1][0]
            padded = math.ceil(channels / BLOCK) * BLOCK / channels
            if inputs[1][1] < FEW_CHANNELS:
                padded = 1.7
                windows = made / channels * math.prod(inputs[1][2:]) * self.window
        floating = macs * self.mac[0] * padded + weights * self.weight[0] * (1.0 if made * 8 < weights else 0.1)
        integer = macs * self.mac[1] + weights * self.weight[1] + made * self.output + windows
        return start[0] + floating, start[1] + integer

    def _integer_depthwise(self, weight: Shape) -> float:
        return self.depthwise_mac[1] if weight[0] % BLOCK == 0 else self.odd_depthwise_mac

    def to_integers(self, value: ir.Value) -> float:
        """Nanoseconds to quantize a tensor of one sample."""
        return self.quantize[0] + self.quantize[1] * elements(value)

    def to_floats(self, value: ir.Value) -> float:
        """Nanoseconds to dequantize it. A Gemm or MatMul gives floats at no cost."""
        maker = value.producer()
        if maker is not None and maker.op_type in ("Gemm", "MatMul"):
            return 0.0
        return self.dequantize[0] + self.dequantize[1] * elements(value)


TYPICAL = Costs()


def shape_of(value: ir.Value | None) -> Shape:
    """Dims for one sample: what is not a number counts as 1; () for a value of unknown rank."""
    if value is None or value.shape is None:
        return ()
    return tuple(dim if isinstance(dim, int) else 1 for dim in value.shape)


def elements(value: ir.Value | None) -> int:
    """Elements of a tensor for one sample."""
    return math.prod(shape_of(value))
