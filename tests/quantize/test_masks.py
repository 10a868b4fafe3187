"""Attention masks: -inf is no broken weight, and no range of 8 bits has to hold it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest

from edgeopt.errors import UsageError
from edgeopt.model import Model
from edgeopt.model.runtime import open_session, run
from edgeopt.quantize import Quantize

pytestmark = pytest.mark.usefixtures("unsimplified")
Fixture = Callable[..., Any]
SPLIT = "s0 = MatMul(q, kt) s = Mul(s0, scale)"
FORMS = {
    "added": "m = Add(s, mask)",
    "added, then moved": "r = Reshape(s, apart) a = Add(r, mask) m = Reshape(a, joined)",
    "chosen": "m = Where(may, s, low)",
    "before a bias": "a = Add(s, mask) m = Add(a, bias)",
}


def attention(form: str, fill: float, tail: str = "p = Softmax(m)") -> Model:
    """One head over eight tokens, each of which sees itself and those before it."""
    rng = np.random.default_rng(0)
    weights = {name: rng.standard_normal((16, 16)).astype(np.float32) / 4 for name in ("wq", "wk", "wv", "wo")}
    causal = np.triu(np.full((8, 8), fill, np.float32), 1)
    constants = {
        **weights,
        "mask": np.where(np.triu(np.ones((8, 8), bool), 1), causal, 0).astype(np.float32),
        "may": np.tril(np.ones((8, 8), bool)),
        "low": np.float32(fill),
        "bias": rng.standard_normal((8, 8)).astype(np.float32),
        "scale": np.float32(0.25),
        "apart": np.array([0, 1, 8, 8]),
        "joined": np.array([0, 8, 8]),
    }
    body = f"""q = MatMul(x, wq) k = MatMul(x, wk) kt = Transpose<perm=[0,2,1]>(k) v = MatMul(x, wv)
        {SPLIT} {form} {tail} o = MatMul(p, v) y = MatMul(o, wo)"""
    text = f'<ir_version: 8, opset_import: ["" : 17]> net (float[n,8,16] x) => (float[n,8,16] y) {{ {body} }}'
    proto = onnx.parser.parse_model(text)
    used = {name for node in proto.graph.node for name in node.input}
    for name, array in constants.items():
        if name in used:
            proto.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array), name))
    for number, node in enumerate(proto.graph.node):
        node.name = f"node{number}"
    return Model.from_proto(onnx.shape_inference.infer_shapes(proto))


@pytest.mark.parametrize("fill", [-np.inf, float(np.finfo(np.float32).min), -100.0])
@pytest.mark.parametrize("form", FORMS.values(), ids=list(FORMS))
def test_a_masked_network_is_quantized_and_its_scores_stay_in_float(
    form: str, fill: float, make_context: Fixture, measure_sqnr: Fixture
) -> None:
    model = attention(form, fill)
    x = np.random.default_rng(1).standard_normal((32, 8, 16)).astype(np.float32)
    result = Quantize(preset="fast", speed="integers").apply(model, make_context(x))
    (expected,), (found,) = (run(open_session(m), x) for m in (model, result.model))
    assert np.isfinite(found).all()
    assert measure_sqnr(expected, found) > 25
    assert any(node.op_type == "QuantizeLinear" for node in result.model.graph.graph)


@pytest.mark.parametrize(
    ("form", "tail"),
    [("m = Mul(s, mask)", "p = Softmax(m)"), ("m = Add(s, mask)", "z = Softmax(m) e = Exp(m) p = Add(z, e)")],
    ids=["multiplied", "read by others too"],
)
def test_what_is_no_mask_may_not_be_infinite(form: str, tail: str, make_context: Fixture) -> None:
    x = np.zeros((4, 8, 16), np.float32)
    with pytest.raises(UsageError, match="'mask' holds NaN or infinite"):
        Quantize().apply(attention(form, -np.inf, tail), make_context(x))


def test_a_mask_of_nan_is_refused(make_context: Fixture) -> None:
    with pytest.raises(UsageError, match="'mask' holds NaN or infinite"):
        Quantize().apply(attention(FORMS["added"], np.nan), make_context(np.zeros((4, 8, 16), np.float32)))
