"""Small int8 Q/DQ graphs, made directly: what the mcu tier's artifacts are, without a network to quantize."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from edgeopt.model import Model

SPREAD = 74.0
"""Standard deviation of an int8 that takes every level equally often."""


@dataclass(frozen=True)
class Tensor:
    """A dequantized value of the graph: its name, ONNX shape, scale and zero point."""

    name: str
    shape: tuple[int, ...]
    scale: np.float32
    zero: int


class Net:
    """A Q/DQ graph that grows from `self.x`. Scales are such that results use most levels and some saturate."""

    def __init__(self, *shape: int, seed: int = 0) -> None:
        self.random = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.input = (1, *shape)
        self.x = self._pair("input", self.input, self._scale(0.05), self._zero())

    def conv(
        self,
        x: Tensor,
        channels: int,
        kernel: tuple[int, ...] = (3, 3),
        *,
        group: int = 1,
        bias: bool = True,
        **settings: Any,
    ) -> Tensor:
        inside = x.shape[1] // group
        weights = self.random.integers(-127, 128, (channels, inside, *kernel)).astype(np.int8)
        inputs = [x.name, *self._weights(x, weights, channels if bias else 0, 0)]
        made = self._node("Conv", inputs, group=group, kernel_shape=list(kernel), **settings)
        return self._quantized(made, x, self._product_scale(x, weights[0].size))

    def gemm(self, x: Tensor, channels: int, *, transposed: bool = True) -> Tensor:
        size = (channels, x.shape[1]) if transposed else (x.shape[1], channels)
        weights = self.random.integers(-127, 128, size).astype(np.int8)
        inputs = [x.name, *self._weights(x, weights, channels, 0 if transposed else 1)]
        return self._quantized(
            self._node("Gemm", inputs, transB=int(transposed)), x, self._product_scale(x, x.shape[1])
        )

    def matmul(self, x: Tensor, channels: int) -> Tensor:
        weights = self.random.integers(-127, 128, (x.shape[-1], channels)).astype(np.int8)
        inputs = [x.name, *self._weights(x, weights, 0, 1, per_channel=False)]
        return self._quantized(self._node("MatMul", inputs), x, self._product_scale(x, x.shape[-1]))

    def add(self, a: Tensor, b: Tensor) -> Tensor:
        return self._quantized(self._node("Add", [a.name, b.name]), a, np.float32(a.scale + b.scale) * self._scale(0.7))

    def mul(self, a: Tensor, b: Tensor) -> Tensor:
        return self._quantized(self._node("Mul", [a.name, b.name]), a, a.scale * b.scale * self._scale(70.0))

    def unary(self, x: Tensor, operator: str, **settings: Any) -> Tensor:
        bounded = operator in ("Sigmoid", "HardSigmoid", "Tanh")
        scale = np.float32(1 / 128) if bounded else x.scale * self._scale(0.8)
        return self._quantized(self._node(operator, [x.name], **settings), x, scale)

    def clip(self, x: Tensor, low: float, high: float) -> Tensor:
        bounds = [self.constant(np.float32(bound)) for bound in (low, high)]
        return self._quantized(self._node("Clip", [x.name, *bounds]), x, x.scale)

    def same(self, x: Tensor, operator: str, *inputs: str, **settings: Any) -> Tensor:
        """What hands numbers on: the output has the input's scale."""
        return self._quantized(self._node(operator, [x.name, *inputs], **settings), x, x.scale, x.zero)

    def average(self, x: Tensor, operator: str = "AveragePool", **settings: Any) -> Tensor:
        return self._quantized(self._node(operator, [x.name], **settings), x, x.scale * self._scale(0.4))

    def concat(self, *values: Tensor, axis: int = 1) -> Tensor:
        scale = np.float32(max(value.scale for value in values))
        return self._quantized(self._node("Concat", [value.name for value in values], axis=axis), values[0], scale)

    def softmax(self, x: Tensor, axis: int = -1) -> Tensor:
        return self._quantized(self._node("Softmax", [x.name], axis=axis), x, np.float32(1 / 256), -128)

    def given(self, *shape: int) -> Tensor:
        """A quantized constant."""
        scale, integers = self._scale(0.05), self.random.integers(-128, 128, shape).astype(np.int8)
        inputs = [self.constant(integers), self.constant(scale), self.constant(np.int8(3))]
        return Tensor(self._node("DequantizeLinear", inputs), shape, scale, 3)

    def constant(self, array: Any) -> str:
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def model(self, output: Tensor, opset: int = 20) -> Model:
        value = helper.make_tensor_value_info
        graph = helper.make_graph(
            self.nodes,
            "net",
            [value("input", onnx.TensorProto.FLOAT, self.input)],
            [value(output.name, onnx.TensorProto.FLOAT, None)],
            self.constants,
        )
        proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
        return Model.from_proto(onnx.shape_inference.infer_shapes(proto))

    def _weights(
        self, x: Tensor, weights: np.ndarray, biases: int, axis: int, *, per_channel: bool = True
    ) -> list[str]:
        count = weights.shape[axis]
        scale = self.random.uniform(0.5, 1.5, count if per_channel else ()).astype(np.float32) * np.float32(0.01)
        along = {"axis": axis} if per_channel else {}
        inputs = [self.constant(weights), self.constant(scale), self.constant(np.zeros(scale.shape, np.int8))]
        found = [self._node("DequantizeLinear", inputs, **along)]
        if biases:
            bias = self.random.integers(-3000, 3000, biases).astype(np.int32)
            along = {"axis": 0} if per_channel else {}
            found.append(self._node("DequantizeLinear", [self.constant(bias), self.constant(scale * x.scale)], **along))
        return found

    def _product_scale(self, x: Tensor, terms: int) -> np.float32:
        return np.float32(x.scale * 0.01 * math.sqrt(terms) * SPREAD * SPREAD / 50)

    def _scale(self, around: float) -> np.float32:
        return np.float32(around * self.random.uniform(0.6, 1.4))

    def _zero(self) -> int:
        return int(self.random.choice([-128, 0, self.random.integers(-128, 128)]))

    def _quantized(self, name: str, like: Tensor, scale: np.float32, zero: int | None = None) -> Tensor:
        return self._pair(name, None, np.float32(scale), self._zero() if zero is None else zero)

    def _pair(self, name: str, shape: tuple[int, ...] | None, scale: np.float32, zero: int) -> Tensor:
        inputs = [self.constant(np.float32(scale)), self.constant(np.int8(zero))]
        result = self._node("DequantizeLinear", [self._node("QuantizeLinear", [name, *inputs]), *inputs])
        return Tensor(result, shape or self._infer(result), np.float32(scale), zero)

    def _infer(self, name: str) -> tuple[int, ...]:
        value = helper.make_tensor_value_info
        graph = helper.make_graph(
            self.nodes,
            "net",
            [value("input", onnx.TensorProto.FLOAT, self.input)],
            [value(name, onnx.TensorProto.FLOAT, None)],
            self.constants,
        )
        proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
        inferred = onnx.shape_inference.infer_shapes(proto, data_prop=True).graph.output[0]
        return tuple(dim.dim_value for dim in inferred.type.tensor_type.shape.dim)

    def _node(self, operator: str, inputs: list[str], **settings: Any) -> str:
        name = f"{operator.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [name], name=name, **settings))
        return name
