"""Levels are not spent on values that no reader can tell apart."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from arrays import samples_of

from edgeopt.model import Model
from edgeopt.model.runtime import open_session, run
from edgeopt.quantize.build import Builder, wanted_tensors
from edgeopt.quantize.calibrators import MinMax
from edgeopt.quantize.histogram import Histogram
from edgeopt.quantize.observe import observe
from edgeopt.quantize.ranges import Range
from edgeopt.quantize.saturation import limit, useful_range
from edgeopt.quantize.weights import MaxScale
from edgeopt.tiers import load_tier

Fixture = Callable[..., Any]


def read_by(net: Any, *operators: str) -> Model:
    """A convolution whose output these operators read."""
    x = net.conv("x", 3, 8)
    return net.model(*(net.add(operator, x) for operator in operators))  # type: ignore[no-any-return]


def useful(model: Model) -> Range:
    return useful_range(next(iter(model.graph.graph)).outputs[0])


@pytest.mark.parametrize(
    ("operators", "expected"),
    [
        (["HardSwish"], Range(-3, np.inf)),
        (["HardSigmoid"], Range(-2.5, 2.5)),
        (["Relu"], Range(0, np.inf)),
        (["HardSwish", "HardSigmoid"], Range(-3, np.inf)),
        (["HardSwish", "Neg"], Range(-np.inf, np.inf)),
        (["Abs"], Range(-np.inf, np.inf)),
    ],
    ids=["hardswish", "hardsigmoid", "relu", "both", "hardswish-and-neg", "abs"],
)
def test_the_useful_range_is_where_a_reader_is_not_flat(
    operators: list[str], expected: Range, new_net: Fixture
) -> None:
    assert useful(read_by(new_net(), *operators)) == expected


@pytest.mark.parametrize("operator", ["HardSwish", "HardSigmoid", "Sigmoid", "Tanh", "Relu"])
def test_what_lies_outside_makes_no_difference_to_8_bits(operator: str, new_net: Fixture) -> None:
    net = new_net(channels=1, size=64)
    x = net.add(operator, "x")
    model = net.model(x)
    found = useful_range(model.graph.graph.inputs[0])
    values = np.linspace(-40, 40, 64 * 64, dtype=np.float32).reshape(1, 1, 64, 64)
    session = open_session(model)
    true, clipped = run(session, values)[0], run(session, np.clip(values, found.low, found.high))[0]
    step = (true.max() - true.min()) / 255
    assert np.abs(true - clipped).max() <= step / 4
    inside = np.clip(values, 0.8 * max(found.low, -40), 0.8 * min(found.high, 40))
    assert np.abs(true - run(session, inside)[0]).max() > step / 4  # not wider than it has to be


def test_swish_is_known_by_its_two_nodes(new_net: Fixture) -> None:
    net = new_net()
    x = net.conv("x", 3, 8)
    model = net.model(net.add("Mul", x, net.add("Sigmoid", x)))
    assert useful(model) == Range(-7, np.inf)


def test_limiting_a_histogram_is_counting_clipped_values() -> None:
    values = np.random.default_rng(0).standard_normal(100_000).astype(np.float32) * 4
    seen, clipped = Histogram(), Histogram()
    seen.count(values)
    found = limit(seen, Range(-3, np.inf))
    clipped.count(np.clip(values, -3, None))
    assert (found.low, found.high, found.total) == (-3, seen.high, seen.total)
    near = [np.abs(found.edges - low).argmin() for low in (-3, -2, 0, 5)]
    other = [np.abs(clipped.edges - low).argmin() for low in (-3, -2, 0, 5)]
    for a, b in zip(near, other, strict=True):
        assert abs(int(found.counts[:a].sum()) - int(clipped.counts[:b].sum())) <= 0.01 * len(values) or a == near[0]
    assert limit(seen, Range(-np.inf, np.inf)) is seen


def test_a_layer_before_hardswish_gains(new_net: Fixture, make_images: Fixture, measure_sqnr: Fixture) -> None:
    net = new_net()
    net.shape[0] = 1
    w = net.constant(np.asarray(net.random.standard_normal((8, 3, 3, 3)) * 2, np.float32))
    x = net.add("HardSwish", net.add("Conv", "x", w, net.bias(8), kernel_shape=[3, 3]))
    model = net.model(net.conv(x, 8, 8))
    images = make_images(16)
    tier = load_tier("any")
    samples = samples_of(images)
    seen = observe(model, wanted_tensors(model, tier), samples.batches(1), counts=False).histograms
    built = Builder(model, tier, seen, MinMax(), MaxScale()).build()
    before = next(group for group in built.grids if "conv_0" in group)
    assert seen[before].low < -6
    assert built.grids[before].range.low == pytest.approx(-3, abs=2 * float(built.grids[before].scale))
