"""Random small graphs: the C program of each gives onnxruntime's integers, all of them."""

from __future__ import annotations

import shutil
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mcu_host import differences
from qdq_graphs import Net, Tensor

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="needs a C compiler: apt-get install gcc")

UNARY = ["Relu", "HardSwish", "HardSigmoid", "Sigmoid", "Tanh", "LeakyRelu"]


def window(draw: Any, shape: tuple[int, ...], largest: int = 5) -> dict[str, Any]:
    """Kernel, strides, dilations and pads that fit a [1, c, h, w] tensor."""
    found: dict[str, Any] = {"kernel": [], "strides": [], "dilations": [], "pads": [0, 0, 0, 0]}
    for axis in range(2):
        size = shape[2 + axis]
        kernel = draw(st.integers(1, min(largest, size)))
        dilation = draw(st.integers(1, 3)) if (kernel - 1) * 3 < size else 1
        before, after = draw(st.integers(0, kernel - 1)), draw(st.integers(0, kernel - 1))
        found["kernel"].append(kernel)
        found["strides"].append(draw(st.integers(1, 3)))
        found["dilations"].append(dilation)
        found["pads"][axis], found["pads"][2 + axis] = before, after
    return found


def step(draw: Any, net: Net, x: Tensor, seen: list[Tensor]) -> Tensor:
    """One more operator on `x`."""
    channels = x.shape[1]
    kind = draw(st.sampled_from(["conv", "conv", "depthwise", "grouped", "pointwise", "unary", "pool", "join", "gate"]))
    if kind == "unary":
        return net.unary(x, draw(st.sampled_from(UNARY)))
    if kind == "pointwise":
        return net.conv(x, draw(st.integers(1, 19)), (1, 1), strides=[draw(st.integers(1, 2))] * 2)
    if kind == "gate":
        pooled = net.average(x, "GlobalAveragePool")
        return net.mul(x, net.unary(net.conv(pooled, channels, (1, 1)), "HardSigmoid"))
    if kind == "join":
        like = [value for value in seen if value.shape == x.shape]
        other = draw(st.sampled_from(like))
        return net.concat(x, other) if draw(st.booleans()) else net.add(x, other)
    found = window(draw, x.shape)
    kernel = tuple(found.pop("kernel"))
    if kind == "pool":
        dilations = found.pop("dilations")
        if draw(st.booleans()):
            return net.same(x, "MaxPool", kernel_shape=list(kernel), dilations=dilations, **found)
        return net.average(x, kernel_shape=list(kernel), count_include_pad=draw(st.integers(0, 1)), **found)
    if kind == "conv":
        return net.conv(x, draw(st.integers(1, 19)), kernel, **found)
    groups = channels if kind == "depthwise" else draw(st.sampled_from([g for g in (1, 2, 3) if channels % g == 0]))
    return net.conv(x, groups * draw(st.integers(1, 2)), kernel, group=groups, **found)


@st.composite
def graphs(draw: Any) -> tuple[Net, Tensor]:
    shape = draw(st.tuples(st.integers(1, 6), st.integers(3, 12), st.integers(3, 12)))
    net = Net(*shape, seed=draw(st.integers(0, 2**31)))
    x, seen = net.x, [net.x]
    for _ in range(draw(st.integers(1, 5))):
        made = step(draw, net, x, seen)
        if min(made.shape[2:]) < 1 or np.prod(made.shape) > 20_000:
            break
        x = made
        seen.append(x)
    if draw(st.booleans()):
        x = net.gemm(net.same(x, "Flatten"), draw(st.integers(1, 11)))
    return net, x


def is_exact(graph: tuple[Net, Tensor]) -> None:
    net, output = graph
    assert differences(net.model(output), 3, ("-O0",))[0] == 0


@settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(graphs())
def test_random_graph_is_exact(graph: tuple[Net, Tensor]) -> None:
    is_exact(graph)


@pytest.mark.slow
@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(graphs())
def test_200_random_graphs_are_exact(graph: tuple[Net, Tensor]) -> None:
    is_exact(graph)
