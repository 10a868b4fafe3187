"""Views by strides that change nothing are taken out; others stay."""

from __future__ import annotations

import numpy as np
import onnx.numpy_helper
import onnx.parser
import pytest

from edgeopt.model import Model
from edgeopt.model.load import tidy
from edgeopt.model.runtime import open_session, run

BODY = """x1 = Relu(x) flat = Reshape(x1, minus) s = Shape<start=0, end=1>(x) n = Squeeze(s)
          rows = Range(zero, n, one) far = Mul(rows, stride) apart = Unsqueeze(far, axes) idx = Add(apart, inner)
          v = Gather<axis=0>(flat, idx) y = Neg(v)"""


def strided(stride: int, inner: np.ndarray) -> Model:
    proto = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 18]> g (float[N,4,1,1] x) => (float[N,4,1,1] y) <float[N,4,1,1] x1, '
        f"float[N,4,1,1] v> {{ {BODY} }}"
    )
    constants = {"minus": [-1], "zero": 0, "one": 1, "stride": stride, "axes": [1, 2, 3], "inner": inner}
    for name, array in constants.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array(array, np.int64), name))
    return Model.from_proto(proto)


COLUMNS = np.arange(4).reshape(1, 4, 1, 1)


@pytest.mark.parametrize(
    ("stride", "inner", "gone"), [(4, COLUMNS, True), (4, COLUMNS[:, ::-1], False), (0, COLUMNS, False)]
)
def test_a_view_is_dropped_where_it_is_the_identity(stride: int, inner: np.ndarray, gone: bool) -> None:
    model = strided(stride, inner)
    tidied = tidy(model)
    assert ("Gather" not in {node.op_type for node in tidied.graph.graph}) == gone
    x = np.random.default_rng(0).standard_normal((3, 4, 1, 1)).astype(np.float32)
    np.testing.assert_array_equal(run(open_session(tidied), x)[0], run(open_session(model), x)[0])
