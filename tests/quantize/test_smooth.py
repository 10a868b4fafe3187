"""Smoothing computes the same function, and saves the other channels from an outlier."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from arrays import samples_of
from onnx import helper, numpy_helper

from edgeopt.model import Model
from edgeopt.model.load import tidy
from edgeopt.model.runtime import open_session, run
from edgeopt.quantize.build import Builder, wanted_tensors
from edgeopt.quantize.calibrators import MinMax
from edgeopt.quantize.observe import observe
from edgeopt.quantize.smooth import SmoothQuant
from edgeopt.quantize.weights import MaxScale
from edgeopt.stage import Context
from edgeopt.tiers import load_tier

Fixture = Callable[..., Any]
TOKENS, WIDTH, OUTPUTS = 6, 32, 48


def tokens(count: int = 32, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, TOKENS, WIDTH)).astype(np.float32)


def block(text: str, outlier: float = 60.0, extra: dict[str, Any] | None = None) -> Model:
    """A graph in ONNX's text form between x [batch, tokens, width] and y; the norm's scale has one outlier channel."""
    random = np.random.default_rng(0)
    scale = np.ones(WIDTH, np.float32)
    scale[3] = outlier
    constants = {
        "scale": scale,
        "shift": random.standard_normal(WIDTH).astype(np.float32),
        "w": random.standard_normal((WIDTH, OUTPUTS)).astype(np.float32) / 6,
        "v": random.standard_normal((OUTPUTS, WIDTH)).astype(np.float32) / 6,
        "b": random.standard_normal(OUTPUTS).astype(np.float32),
        "flat": np.array([-1, WIDTH]),
    } | (extra or {})
    for name in ("w", "v"):  # what reads the outlier makes as much of it as of the others
        constants[name] = constants[name] / (scale[:, None] if name == "w" else scale)
    graph = onnx.parser.parse_graph(f"g (float[batch,{TOKENS},{WIDTH}] x) => (float[a,b,c] y) {{ {text} }}")
    graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in constants.items())
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    del proto.graph.output[0].type.tensor_type.shape.dim[:]
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    return tidy(Model.from_proto(onnx.shape_inference.infer_shapes(proto)))


NORM = "n = LayerNormalization <axis = -1> (x, scale, shift)"
PLAIN = f"{NORM} y = MatMul(n, w)"
RMS = """
    s = Mul(x, x)  m = ReduceMean <keepdims = 1> (s, last)  r = Sqrt(m)  d = Div(x, r)  n = Mul(d, scale)
    y = MatMul(n, w)
"""
SPELLED = "d = LayerNormalization <axis = -1> (x, one)  t = Mul(d, scale)  n = Add(t, shift)  y = MatMul(n, w)"
MOVED = f"""
    {NORM}  t = Transpose <perm = [1, 0, 2]> (n)  r = Reshape(t, flat)
    p = Gemm <transB = 1> (r, v, b)  q = MatMul(r, w)
    y = Add(p, q)
"""
JOINED = f"{NORM}  h = Slice(n, from, to, along)  c = Concat <axis = 1> (h, n)  y = MatMul(c, w)"
EXTRA = {
    "last": np.array([-1]),
    "one": np.ones(WIDTH, np.float32),
    "from": np.array([0]),
    "to": np.array([2]),
    "along": np.array([1]),
}


def outputs(model: Model, x: np.ndarray) -> np.ndarray:
    return run(open_session(model), x)[0]


def quantize(model: Model, x: np.ndarray) -> Model:
    tier = load_tier("any")
    seen = observe(model, wanted_tensors(model, tier), samples_of(x).batches(8), counts=False).histograms
    return Builder(model, tier, seen, MinMax(), MaxScale()).build().model


@pytest.mark.parametrize(
    "text", [PLAIN, RMS, SPELLED, MOVED, JOINED], ids=["plain", "rms", "spelled", "moved", "joined"]
)
@pytest.mark.parametrize("alpha", [None, 0.5])
def test_the_function_stays_and_the_outlier_goes(text: str, alpha: float | None) -> None:
    model, x = block(text, extra=EXTRA), tokens(8)
    result = SmoothQuant(alpha=alpha).transform(model, samples_of(x), Context())
    assert result.facts["smoothed"] == 1
    before, after = outputs(model, x), outputs(result.model, x)
    assert np.abs(after - before).max() < 1e-5 * np.abs(before).max()
    scale = np.abs(result.model.weights()["scale"])
    assert scale.max() / np.median(scale) < 20


def test_int8_gains_many_decibels_from_one_outlier_channel(measure_sqnr: Fixture) -> None:
    model, x, test = block(PLAIN), tokens(64), tokens(16, seed=7)
    smooth = SmoothQuant().transform(model, samples_of(x), Context()).model
    truth = outputs(model, test)
    plain, better = (measure_sqnr(truth, outputs(quantize(m, x), test)) for m in (model, smooth))
    assert better > plain + 8


def test_the_best_alpha_of_the_grid_is_at_least_as_good_as_one_half(measure_sqnr: Fixture) -> None:
    model, x, test = block(PLAIN, outlier=200.0), tokens(64), tokens(16, seed=7)
    truth = outputs(model, test)
    half, best = (
        measure_sqnr(
            truth, outputs(quantize(SmoothQuant(alpha=a).transform(model, samples_of(x), Context()).model, x), test)
        )
        for a in (0.5, None)
    )
    assert best > half - 0.5


def test_without_an_outlier_nothing_changes() -> None:
    model = block(PLAIN, outlier=1.0)
    result = SmoothQuant().transform(model, samples_of(tokens(16)), Context())
    assert result.facts["normalizations"] == 1
    assert result.facts["smoothed"] == 0
    assert result.model.fingerprint() == model.fingerprint()


@pytest.mark.parametrize(
    "text",
    [
        f"{NORM}  m = MatMul(n, u)  y = Add(m, n)",
        f"{NORM}  t = Transpose <perm = [0, 2, 1]> (n)  y = MatMul(t, k)",
        f"{NORM}  c = Concat <axis = 1> (n, x)  y = MatMul(c, w)",
        f"{NORM}  z = MatMul(n, w)  e = Relu(scale)  a = Mul(x, e)  q = MatMul(a, w)  y = Add(z, q)",
    ],
    ids=["residual", "channels-moved", "joined-with-others", "shared-constants"],
)
def test_what_somebody_else_reads_is_left_alone(text: str) -> None:
    random = np.random.default_rng(4)
    extra = {
        "u": random.standard_normal((WIDTH, WIDTH)).astype(np.float32),
        "k": random.standard_normal((TOKENS, OUTPUTS)).astype(np.float32),
    }
    model = block(text, extra=extra)
    result = SmoothQuant(alpha=0.5).transform(model, samples_of(tokens(8)), Context())
    assert result.facts["smoothed"] == 0
