"""Small float networks and data to quantize them with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from arrays import split_of
from onnx import helper, numpy_helper

from edgeopt.data import Data
from edgeopt.model import Model
from edgeopt.model.load import tidy
from edgeopt.stage import Context


class Net:
    """A graph that grows from its input `x` [batch, channels, size, size]; a call adds a node, returns its output."""

    def __init__(self, channels: int = 3, size: int = 16, seed: int = 0) -> None:
        self.random = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.shape: list[int | str] = ["batch", channels, size, size]

    def add(self, operator: str, *inputs: str, outputs: int = 1, **attributes: Any) -> str:
        name = f"{operator.lower()}_{len(self.nodes)}"
        names = [f"{name}_out{i}" if i else f"{name}_out" for i in range(outputs)]
        self.nodes.append(helper.make_node(operator, list(inputs), names, name=name, **attributes))
        return names[0]

    def constant(self, array: Any, name: str = "") -> str:
        name = name or f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def weight(self, *shape: int) -> str:
        spread = np.sqrt(2 / np.prod(shape[1:]))
        return self.constant((self.random.standard_normal(shape) * spread).astype(np.float32))

    def bias(self, channels: int) -> str:
        return self.constant((self.random.standard_normal(channels) * 0.2).astype(np.float32))

    def conv(self, x: str, inputs: int, outputs: int, kernel: int = 3, *, group: int = 1, stride: int = 1) -> str:
        pad = kernel // 2
        w, b = self.weight(outputs, inputs // group, kernel, kernel), self.bias(outputs)
        sizes = {"kernel_shape": [kernel] * 2, "pads": [pad] * 4, "strides": [stride] * 2, "group": group}
        return self.add("Conv", x, w, b, **sizes)

    def relu6(self, x: str) -> str:
        return self.add("Clip", x, self.constant(np.float32(0)), self.constant(np.float32(6)))

    def head(self, x: str, channels: int, classes: int = 10) -> str:
        flat = self.add("Flatten", self.add("GlobalAveragePool", x))
        return self.add("Gemm", flat, self.weight(classes, channels), self.bias(classes), transB=1)

    def model(self, *outputs: str, opset: int = 17) -> Model:
        values = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in outputs]
        x = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, self.shape)
        graph = helper.make_graph(self.nodes, "net", [x], values, self.constants)
        opsets = [helper.make_opsetid("", opset)]
        proto = onnx.shape_inference.infer_shapes(helper.make_model(graph, opset_imports=opsets, ir_version=8))
        onnx.checker.check_model(proto)
        return tidy(Model.from_proto(proto))


def resnet(size: int = 16) -> Model:
    net = Net(size=size)
    x = net.add("Relu", net.conv("x", 3, 16))
    x = net.add("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    y = net.conv(net.add("Relu", net.conv(x, 16, 16)), 16, 16)
    x = net.add("Relu", net.add("Add", y, x))
    y = net.conv(net.add("Relu", net.conv(x, 16, 32, stride=2)), 32, 32)
    x = net.add("Relu", net.add("Add", y, net.conv(x, 16, 32, 1, stride=2)))
    return net.model(net.head(x, 32))


def mobilenet(size: int = 16) -> Model:
    net = Net(size=size)
    x = net.relu6(net.conv("x", 3, 8, stride=2))
    for _ in range(2):
        y = net.relu6(net.conv(x, 8, 32, 1))
        y = net.relu6(net.conv(y, 32, 32, group=32))
        x = net.add("Add", net.conv(y, 32, 8, 1), x)
    return net.model(net.head(net.relu6(net.conv(x, 8, 32, 1)), 32))


def images(count: int = 48, shape: Sequence[int] = (3, 16, 16), seed: int = 1) -> np.ndarray:
    """float32 [count, *shape]: smooth blobs with noise, as natural images have both."""
    random = np.random.default_rng(seed)
    coarse = random.standard_normal((count, *shape[:-2], shape[-2] // 4, shape[-1] // 4))
    fine = 0.3 * random.standard_normal((count, *shape))
    return (np.kron(coarse, np.ones((4, 4))) + fine).astype(np.float32)


def context(x: np.ndarray, **settings: Any) -> Context:
    """A context whose calibration split is `x`, without labels."""
    split = split_of(x)
    return Context(data=Data("images", split, split, split, (), None, "f"), **settings)


def sqnr(reference: np.ndarray, found: np.ndarray) -> float:
    """Signal to quantization noise, dB."""
    noise = np.square(reference.astype(np.float64) - found).sum()
    return float(10 * np.log10(np.square(reference.astype(np.float64)).sum() / noise))


@pytest.fixture
def unsimplified(monkeypatch: pytest.MonkeyPatch) -> None:
    """Quantize takes graphs as they are: tests of it see their own nodes, and take no second each."""
    monkeypatch.setattr("edgeopt.model.simplify.simplify", lambda model, **_: model)


@pytest.fixture
def new_net() -> Callable[..., Net]:
    return Net


@pytest.fixture(scope="session")
def resnet_model() -> Model:
    return resnet()


@pytest.fixture(scope="session")
def mobilenet_model() -> Model:
    return mobilenet()


@pytest.fixture
def make_images() -> Callable[..., np.ndarray]:
    return images


@pytest.fixture
def make_context() -> Callable[..., Context]:
    return context


@pytest.fixture
def measure_sqnr() -> Callable[..., float]:
    return sqnr
