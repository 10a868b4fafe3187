"""A walk sees what a plain run sees, and later layers read what was put in its place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from edgeopt.model import Model
from edgeopt.model.runtime import open_session, run
from edgeopt.quantize.build import Builder, wanted_tensors
from edgeopt.quantize.calibrators import MinMax
from edgeopt.quantize.observe import observe
from edgeopt.quantize.walk import Walk
from edgeopt.quantize.weights import MaxScale
from edgeopt.tiers import load_tier

Fixture = Callable[..., Any]


def with_outputs(model: Model, names: list[str]) -> Model:
    shown = model.copy()
    nodes = {node.name: node for node in shown.graph.graph}
    shown.graph.graph.outputs.clear()
    for name in names:
        value = nodes[name].outputs[0]
        value.type = ir.TensorType(ir.DataType.FLOAT)
        shown.graph.graph.outputs.append(value)
    return shown


def layers(model: Model) -> list[str]:
    return [node.name or "" for node in model.graph.graph if node.op_type in ("Conv", "Gemm", "Add")]


def quantized(model: Model, x: np.ndarray) -> Model:
    tier = load_tier("any")
    seen = observe(model, wanted_tensors(model, tier), [{"x": x}], counts=False).histograms
    return Builder(model, tier, seen, MinMax(), MaxScale()).build().model


@pytest.mark.parametrize("network", ["resnet_model", "mobilenet_model"])
@pytest.mark.parametrize("int8", [False, True], ids=["float", "int8"])
def test_each_stop_gives_what_the_whole_model_computes(
    network: str, int8: bool, request: pytest.FixtureRequest, make_images: Fixture, measure_sqnr: Fixture
) -> None:
    x = make_images(10)
    model = request.getfixturevalue(network)
    model = quantized(model, x) if int8 else model
    names = layers(model)
    truth = run(open_session(with_outputs(model, names), optimize=False), x)
    walk = Walk(model, names, [{"x": x[:8]}, {"x": x[8:]}])
    for expected in truth:
        found = walk.advance()
        assert [len(batch) for batch in found] == [8, 2]
        # a value on the border of two levels may fall either way
        assert measure_sqnr(expected, np.concatenate(found)) > (40 if int8 else 100)


def test_what_replaces_an_output_is_what_later_layers_read(resnet_model: Model, make_images: Fixture) -> None:
    x = make_images(4)
    names = layers(resnet_model)
    walk = Walk(resnet_model, names, [{"x": x}])
    first = walk.advance()
    walk.replace([np.zeros_like(batch) for batch in first])
    for _ in names[2:]:
        walk.advance()
    bias_only = walk.advance()[0]
    np.testing.assert_allclose(bias_only, np.broadcast_to(bias_only[:1], bias_only.shape), rtol=1e-5, atol=1e-6)


def test_only_what_later_pieces_read_is_kept(mobilenet_model: Model, make_images: Fixture) -> None:
    model = quantized(mobilenet_model, make_images(4))
    names = layers(model)
    walk = Walk(model, names, [{"x": make_images(4)}])
    for _ in names:
        walk.advance()
        kept = [batch for batches in walk._live.values() for batch in batches]
        assert len(kept) <= 3  # the layer's output and a residual one
    assert not walk._live or len(walk._live) <= 1
