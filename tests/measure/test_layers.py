"""Times of layers: each kernel counts for the layer whose work it does."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from edgeopt.measure import one_input, time_sessions
from edgeopt.measure.layers import time_layers
from edgeopt.model import Model
from edgeopt.model.profile import profile
from edgeopt.model.runtime import open_session

TEXT = """<ir_version: 8, opset_import: ["" : 17]> g (float[1, 16, 40, 40] x) => (float[1, 10] y)
  { c = Conv <pads = [1, 1, 1, 1]> (x, large)  r = Relu(c)  d = Conv(r, small)  a = Add(d, d)
    p = GlobalAveragePool(a)  f = Flatten(p)  y = Gemm <transB = 1> (f, head) }"""


def model() -> Model:
    proto = onnx.parser.parse_model(TEXT)
    random = np.random.default_rng(0)
    for name, shape in (("large", (64, 16, 3, 3)), ("small", (4, 64, 1, 1)), ("head", (10, 4))):
        array = random.standard_normal(shape, dtype=np.float32)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return Model(ir.from_proto(proto))


@pytest.fixture(scope="module")
def timed() -> tuple[dict[str, float], float]:
    """Milliseconds by layer, and of a whole run."""
    net = model()
    session = open_session(net, threads=1)
    feeds = one_input(session)
    whole = time_sessions({"m": session}, {"m": feeds}, rounds=20)["m"].median_ms
    names = [layer.name for layer in profile(net).layers]
    return time_layers(net, feeds, names, latency_ms=whole), whole


def test_the_layer_with_the_work_has_the_time_and_a_fused_relu_has_none(timed: tuple[dict[str, float], float]) -> None:
    found, _ = timed
    assert max(found, key=found.__getitem__) == "c"
    assert {"c", "d", "y"} <= set(found)
    assert "r" not in found, "onnxruntime makes one kernel of Conv and Relu"
    assert found["c"] > 5 * found["y"]


def test_the_layers_make_up_the_run(timed: tuple[dict[str, float], float]) -> None:
    found, whole = timed
    assert 0.3 * whole < sum(found.values()) < 3 * whole


def test_the_model_is_left_as_it_was() -> None:
    net = model()
    before = net.to_bytes()
    time_layers(net, one_input(open_session(net, threads=1)), [], latency_ms=1000.0)
    assert net.to_bytes() == before
