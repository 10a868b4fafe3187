"""From a network as it was trained (BatchNormalization, a mean over H and W) to integers only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from edgeopt.model.runtime import open_session, run
from edgeopt.quantize import Quantize
from edgeopt.quantize.verify import fused_operators
from edgeopt.tiers import load_tier

Fixture = Callable[..., Any]


@pytest.mark.parametrize("tier", ["any", "mcu"])
def test_batchnorm_and_mean_disappear_before_quantization(
    tier: str, new_net: Fixture, make_images: Fixture, make_context: Fixture, measure_sqnr: Fixture
) -> None:
    net = new_net()
    x = net.add("Conv", "x", net.weight(8, 3, 3, 3), kernel_shape=[3, 3], pads=[1] * 4)
    statistics = [np.linspace(0.5, 2, 8), np.linspace(-1, 1, 8), np.zeros(8), np.ones(8)]
    x = net.add("BatchNormalization", x, *(net.constant(array.astype(np.float32)) for array in statistics))
    x = net.add("ReduceMean", net.add("Relu", x), axes=[2, 3], keepdims=0)
    model = net.model(net.add("Gemm", x, net.weight(10, 8), net.bias(10), transB=1))
    chosen = load_tier(tier)
    found = Quantize().apply(model, make_context(make_images(32), tier=chosen)).model
    left = Counter(operator for _, operator in fused_operators(found, chosen.session))
    assert left["QLinearConv"] == left["QLinearGlobalAveragePool"] == left["QGemm"] == 1
    assert not {"Conv", "BatchNormalization", "ReduceMean", "Relu", "Gemm"} & set(left)
    image = make_images(1, seed=5)
    session = open_session(found, entries=chosen.session)
    assert measure_sqnr(run(open_session(model), image)[0], run(session, image)[0]) > 25


def test_a_batchnorm_that_nothing_takes_in_runs_in_integers(
    new_net: Fixture, make_images: Fixture, make_context: Fixture, measure_sqnr: Fixture
) -> None:
    """Before the first convolution and twice after a sum, as in pre-activation networks."""
    net = new_net()
    x = "x"
    for channels in (3, 8, 8):
        statistics = [
            np.linspace(0.5, 2, channels),
            np.linspace(-1, 1, channels),
            np.zeros(channels),
            np.ones(channels),
        ]
        x = net.add("BatchNormalization", x, *(net.constant(array.astype(np.float32)) for array in statistics))
        y = net.conv(net.add("Relu", x), channels, 8)
        x = y if channels == 3 else net.add("Add", y, x)
    model = net.model(net.head(x, 8))
    mcu = load_tier("mcu")
    found = Quantize().apply(model, make_context(make_images(32), tier=mcu)).model
    assert not {"BatchNormalization", "Conv", "Mul", "Add"} & {op for _, op in fused_operators(found, mcu.session)}
    image = make_images(1, seed=5)
    session = open_session(found, entries=mcu.session)
    assert measure_sqnr(run(open_session(model), image)[0], run(session, image)[0]) > 20
