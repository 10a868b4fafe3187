"""Every operator, in the shapes that are awkward: the C program gives onnxruntime's integers, all of them."""

from __future__ import annotations

import shutil
from collections.abc import Callable

import numpy as np
import pytest
from mcu_host import differences
from qdq_graphs import Net, Tensor

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="needs a C compiler: apt-get install gcc")


def first(net: Net, channels: int = 6) -> Tensor:
    return net.conv(net.x, channels, pads=[1, 1, 1, 1])


def two(net: Net) -> tuple[Tensor, Tensor]:
    return first(net), net.conv(net.x, 6, (1, 1))


def gate(net: Net, x: Tensor) -> Tensor:
    """Squeeze and excite."""
    pooled = net.average(x, "GlobalAveragePool")
    return net.unary(net.conv(net.unary(net.conv(pooled, 3, (1, 1)), "Relu"), x.shape[1], (1, 1)), "HardSigmoid")


def integers(net: Net, *values: int) -> str:
    return net.constant(np.array(values, np.int64))


CASES: dict[str, Callable[[Net], Tensor]] = {
    "conv 3x3": first,
    "conv odd channels": lambda net: net.conv(first(net, 7), 5, pads=[1, 1, 1, 1]),
    "conv 1x1": lambda net: net.conv(first(net, 7), 9, (1, 1)),
    "conv 1x1 stride 2": lambda net: net.conv(first(net), 9, (1, 1), strides=[2, 2]),
    "conv stride 3, no padding": lambda net: net.conv(net.x, 4, strides=[3, 3]),
    "conv 5x2, uneven padding": lambda net: net.conv(net.x, 4, (5, 2), pads=[3, 0, 1, 1], strides=[1, 2]),
    "conv dilated": lambda net: net.conv(first(net, 5), 4, dilations=[2, 3], pads=[2, 3, 2, 3]),
    "conv same upper": lambda net: net.conv(net.x, 4, (4, 4), auto_pad="SAME_UPPER", strides=[2, 2]),
    "conv same lower": lambda net: net.conv(net.x, 4, (4, 4), auto_pad="SAME_LOWER"),
    "conv without bias": lambda net: net.conv(net.x, 4, bias=False),
    "conv in groups": lambda net: net.conv(first(net), 9, group=3, pads=[1, 1, 1, 1]),
    "depthwise": lambda net: net.conv(first(net), 6, group=6, pads=[1, 1, 1, 1]),
    "depthwise stride 2": lambda net: net.conv(first(net), 6, group=6, strides=[2, 2], pads=[0, 0, 1, 1]),
    "depthwise 5x5": lambda net: net.conv(first(net, 5), 5, (5, 5), group=5, pads=[2, 2, 2, 2]),
    "depthwise dilated": lambda net: net.conv(first(net), 6, group=6, dilations=[2, 2], pads=[2, 2, 2, 2]),
    "depthwise multiplier": lambda net: net.conv(first(net), 12, group=6, pads=[1, 1, 1, 1]),
    "add": lambda net: net.add(*two(net)),
    "add to itself": lambda net: net.add(x := first(net), x),
    "add, one per channel": lambda net: net.add(x := first(net), net.average(x, "GlobalAveragePool")),
    "add, one per channel first": lambda net: net.add(net.average(x := first(net), "GlobalAveragePool"), x),
    "add a constant": lambda net: net.add(x := first(net), net.given(*x.shape)),
    "add to a constant per channel": lambda net: net.add(net.given(1, 6, 1, 1), first(net)),
    "add a number": lambda net: net.add(first(net), net.given()),
    "mul by a constant per channel": lambda net: net.mul(first(net), net.given(6, 1, 1)),
    "mul by a number": lambda net: net.mul(net.given(1), first(net)),
    "mul": lambda net: net.mul(*two(net)),
    "mul, squeeze and excite": lambda net: net.mul(x := first(net), gate(net, x)),
    "mul, factor first": lambda net: net.mul(gate(net, x := first(net)), x),
    "relu": lambda net: net.unary(first(net), "Relu"),
    "clip": lambda net: net.clip(first(net), -0.31, 0.77),
    "hard swish": lambda net: net.unary(first(net), "HardSwish"),
    "hard sigmoid": lambda net: net.unary(first(net), "HardSigmoid", alpha=1 / 6),
    "sigmoid": lambda net: net.unary(first(net), "Sigmoid"),
    "tanh": lambda net: net.unary(first(net), "Tanh"),
    "leaky relu": lambda net: net.unary(first(net), "LeakyRelu", alpha=0.1),
    "swish": lambda net: net.mul(x := first(net), net.unary(x, "Sigmoid")),
    "max pool": lambda net: net.same(first(net), "MaxPool", kernel_shape=[3, 2], strides=[2, 1], pads=[1, 0, 1, 1]),
    "average pool": lambda net: net.average(first(net), kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
    "average pool with padding": lambda net: net.average(
        first(net), kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1
    ),
    "global average": lambda net: net.average(first(net), "GlobalAveragePool"),
    "concat channels": lambda net: net.concat(*two(net)),
    "concat height": lambda net: net.concat(*two(net), axis=2),
    "concat width": lambda net: net.concat(*two(net), axis=3),
    "pad": lambda net: net.same(first(net), "Pad", integers(net, 0, 0, 1, 2, 0, 0, 0, 3)),
    "pad by reflection": lambda net: net.same(first(net), "Pad", integers(net, 0, 0, 1, 2, 0, 0, 0, 3), mode="reflect"),
    "resize": lambda net: net.same(
        first(net), "Resize", "", net.constant(np.array([1, 1, 2, 3], np.float32)), mode="nearest"
    ),
    "resize, uneven": lambda net: net.same(
        first(net), "Resize", "", net.constant(np.array([1, 1, 1.5, 0.7], np.float32)), mode="nearest"
    ),
    "slice": lambda net: net.same(first(net), "Slice", integers(net, 1, 2), integers(net, 5, 7), integers(net, 1, 3)),
    "transpose": lambda net: net.same(first(net), "Transpose", perm=[0, 2, 3, 1]),
    "flatten, dense": lambda net: net.gemm(net.same(first(net), "Flatten"), 5),
    "dense, not transposed": lambda net: net.gemm(net.same(first(net), "Flatten"), 5, transposed=False),
    "rows of a matrix": lambda net: net.matmul(net.same(first(net), "Reshape", integers(net, 1, 9, -1)), 5),
    "channel shuffle": lambda net: net.conv(
        net.same(
            net.same(net.same(first(net), "Reshape", integers(net, 1, 2, 3, 9, 11)), "Transpose", perm=[0, 2, 1, 3, 4]),
            "Reshape",
            integers(net, 1, 6, 9, 11),
        ),
        4,
    ),
    "softmax": lambda net: net.softmax(net.gemm(net.same(first(net), "Flatten"), 11)),
    "softmax over channels": lambda net: net.softmax(first(net), axis=1),
}


@pytest.mark.parametrize("name", CASES)
def test_operator_is_exact(name: str) -> None:
    net = Net(3, 9, 11, seed=len(name))
    assert differences(net.model(CASES[name](net)))[0] == 0


def test_one_dimension_is_exact() -> None:
    net = Net(4, 50)
    x = net.conv(net.x, 8, (7,), pads=[3, 3], strides=[2])
    x = net.same(net.conv(x, 8, (3,), group=8, pads=[1, 1]), "MaxPool", kernel_shape=[2], strides=[2])
    assert differences(net.model(net.gemm(net.same(x, "Flatten"), 3)))[0] == 0


def test_dense_network_is_exact() -> None:
    net = Net(37)
    assert differences(net.model(net.gemm(net.gemm(net.x, 19), 4)))[0] == 0
