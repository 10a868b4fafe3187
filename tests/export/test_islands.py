"""Layers left in float by quantization, on a tier of half precision."""

import numpy as np
import onnx
import pytest
from heard import Heard
from onnx import helper

from edgeopt.export.islands import outside_islands
from edgeopt.export.legalize import legalize
from edgeopt.export.precision import precision_of
from edgeopt.model.runtime import open_session, run


@pytest.fixture
def with_island(build):
    """int8 Conv -> Relu -> float Conv -> Relu -> int8 Gemm on [n, 4, 6, 6]."""
    random = np.random.default_rng(0)

    def make(factor=1.0):
        weights = {
            "s": np.float32(0.03),
            "z": np.int8(0),
            "a.weight": random.integers(-127, 127, (4, 4, 3, 3)).astype(np.int8),
            "as": np.full(4, 1e-3 / 3, np.float32),
            "b.weight": (random.normal(size=(8, 4, 3, 3)) * 0.3 * factor).astype(np.float32),
            "c.weight": random.integers(-127, 127, (5, 8)).astype(np.int8),
            "cs": np.full(5, 1e-3 / factor, np.float32),
            "ms": np.float32(0.02 * factor),
        }
        nodes = [
            helper.make_node("QuantizeLinear", ["x", "s", "z"], ["xq"], name="q"),
            helper.make_node("DequantizeLinear", ["xq", "s", "z"], ["xf"], name="dq"),
            helper.make_node("DequantizeLinear", ["a.weight", "as"], ["aw"], name="dqa", axis=0),
            helper.make_node("Conv", ["xf", "aw"], ["a"], name="a"),
            helper.make_node("Relu", ["a"], ["ar"], name="ar"),
            helper.make_node("Conv", ["ar", "b.weight"], ["b"], name="b"),
            helper.make_node("Relu", ["b"], ["br"], name="br"),
            helper.make_node("GlobalAveragePool", ["br"], ["p"], name="p"),
            helper.make_node("Flatten", ["p"], ["f"], name="f"),
            helper.make_node("QuantizeLinear", ["f", "ms", "z"], ["fq"], name="qf"),
            helper.make_node("DequantizeLinear", ["fq", "ms", "z"], ["fd"], name="dqf"),
            helper.make_node("DequantizeLinear", ["c.weight", "cs"], ["cw"], name="dqc", axis=0),
            helper.make_node("Gemm", ["fd", "cw"], ["y"], name="c", transB=1),
        ]
        return build(nodes, ["n", 4, 6, 6], weights)

    return make


def test_only_the_island_becomes_half(with_island, tier):
    model = with_island()
    x = np.random.default_rng(1).normal(size=(2, 4, 6, 6)).astype(np.float32)
    made = legalize(model, tier(precisions=("int8", "fp16")), feeds={"x": x})
    onnx.checker.check_model(made.to_proto(), full_check=True)
    types = {name: array.dtype for name, array in made.weights().items()}
    assert types["b.weight"] == np.float16
    assert {types[name] for name in ("s", "as", "ms", "cs")} == {np.dtype(np.float32)}
    assert precision_of(made) == "int8"
    casts = [node for node in made.graph.graph if node.op_type == "Cast"]
    assert len(casts) == 2  # into the island and out of it
    assert sum(array.nbytes for array in made.weights().values()) < sum(a.nbytes for a in model.weights().values())
    expected, found = (run(open_session(m), x)[0] for m in (model, made))
    assert np.abs(expected - found).max() < 0.02 * np.abs(expected).max()


def test_what_has_no_island_is_left_alone(qdq_net, tier):
    model = qdq_net(softmax=True)
    assert outside_islands(model) is None
    made = legalize(model, tier(precisions=("int8", "fp16")))
    assert made.to_bytes() == legalize(model, tier(precisions=("int8", "fp32"))).to_bytes()


def test_other_tiers_keep_float32(with_island, tier):
    made = legalize(with_island(), tier(precisions=("int8", "fp32", "fp16")))
    assert made.weights()["b.weight"].dtype == np.float32


def test_what_float16_cannot_hold_stays(with_island, tier):
    heard = Heard()
    x = np.ones((1, 4, 6, 6), np.float32)
    made = legalize(with_island(1e6), tier(precisions=("int8", "fp16")), feeds={"x": x}, progress=heard)
    assert made.weights()["b.weight"].dtype == np.float32
    assert heard.warnings
