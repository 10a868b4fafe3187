"""Grids compute what ONNX's QuantizeLinear and DequantizeLinear compute."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edgeopt.quantize.ranges import Grid, Range, make_grid

BOUND = st.floats(-1e5, 1e5, width=32)


def quantize_with_onnxruntime(grid: Grid, x: np.ndarray) -> list[np.ndarray]:
    kind = helper.np_dtype_to_tensor_dtype(grid.dtype)
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
    ]
    constants = [numpy_helper.from_array(np.asarray(grid.scale), "s")]
    constants.append(numpy_helper.from_array(np.asarray(grid.zero_point, grid.dtype), "z"))
    outputs = [helper.make_tensor_value_info(n, t, ["n"]) for n, t in (("q", kind), ("y", TensorProto.FLOAT))]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"])]
    graph = helper.make_graph(nodes, "g", inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return list(ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, {"x": x}))


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("chosen", [Range(-1, 3), Range(0, 6), Range(-7, 0), Range(0.5, 2), Range(0, 0)], ids=str)
def test_agrees_with_onnxruntime(chosen: Range, symmetric: bool, dtype: str) -> None:
    grid = make_grid(chosen, symmetric=symmetric, dtype=dtype)  # type: ignore[arg-type]
    x = np.concatenate([np.linspace(-8, 8, 4001), (np.arange(-300, 300) + 0.5) * grid.scale]).astype(np.float32)
    integers, reals = quantize_with_onnxruntime(grid, x)
    np.testing.assert_array_equal(grid.quantize(x), integers)
    np.testing.assert_array_equal(grid.dequantize(integers), reals)


@given(BOUND, BOUND, st.booleans(), st.sampled_from(["int8", "uint8"]))
def test_covers_the_range_with_zero_on_a_level(a: float, b: float, symmetric: bool, dtype: str) -> None:
    grid = make_grid(Range(min(a, b), max(a, b)), symmetric=symmetric, dtype=dtype)  # type: ignore[arg-type]
    ends = np.array([a, b, 0], np.float32)
    back = grid.dequantize(grid.quantize(ends))
    assert back[2] == 0
    assert np.abs(back - ends).max() <= 0.501 * grid.scale + 1e-30


def test_symmetric_has_the_zero_point_in_the_middle() -> None:
    assert make_grid(Range(-1, 5), symmetric=True, dtype="int8").zero_point == 0
    assert make_grid(Range(-1, 5), symmetric=True, dtype="uint8").zero_point == 128
