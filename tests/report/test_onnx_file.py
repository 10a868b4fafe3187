"""The wire reader agrees with onnx on real files, and survives what is not one."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeopt.errors import UsageError
from edgeopt.report.onnx_file import read_onnx_file

onnx = pytest.importorskip("onnx")


def model_bytes() -> bytes:
    """Conv and Gemm with a weight of each storage form, Q/DQ with their scales, a shape, a Constant weight."""
    from onnx import TensorProto, helper, numpy_helper

    def tensor(name: str, array: np.ndarray) -> onnx.TensorProto:
        return numpy_helper.from_array(array, name)

    weights = [
        tensor("w", np.ones((8, 3, 3, 3), np.float32)),
        helper.make_tensor("b", TensorProto.FLOAT, [8], [0.5] * 8),
        tensor("q", np.ones((8, 16), np.int8)),
        tensor("q_scale", np.ones(8, np.float32)),
        tensor("q_zero", np.zeros(8, np.int8)),
        tensor("shape", np.array([-1, 8], np.int64)),
        tensor("half", np.ones(5, np.float16)),
    ]
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"]),
        helper.make_node("DequantizeLinear", ["q", "q_scale", "q_zero"], ["d"], axis=0),
        helper.make_node("Reshape", ["c", "shape"], ["r"]),
        helper.make_node("MatMul", ["r", "d"], ["m"]),
        helper.make_node("Constant", [], ["k"], value=tensor("k_value", np.ones(16, np.float32))),
        helper.make_node("Add", ["m", "k"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 3, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 16])],
        weights,
    )
    model = helper.make_model(graph, producer_name="test")
    helper.set_model_props(model, {"edgeopt": '{"task": "classification"}', "ü": "ö"})
    return model.SerializeToString()


BYTES = model_bytes()


def test_it_reads_what_onnx_wrote(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(BYTES)
    found = read_onnx_file(path)
    assert found.size_bytes == len(BYTES)
    assert found.params == 8 * 27 + 8 + 8 * 16 + 5 + 16
    assert found.operators == {
        "Conv": 1,
        "DequantizeLinear": 1,
        "Reshape": 1,
        "MatMul": 1,
        "Constant": 1,
        "Add": 1,
    }
    assert found.metadata == {"edgeopt": '{"task": "classification"}', "ü": "ö"}


def test_parameters_are_counted_as_the_profile_counts_them(tmp_path: Path) -> None:
    from edgeopt.model.load import read_onnx
    from edgeopt.model.profile import profile

    text = """<ir_version: 8, opset_import: ["" : 17]> g (float[n, 3, 8, 8] x) => (float[n, 4, 6, 6] y)
      <float[4] s = {1, 1, 1, 1}, float[4] b = {0, 0, 0, 0},
       float[4] m = {0, 0, 0, 0}, float[4] v = {1, 1, 1, 1}, float low = {0}, float high = {6}>
      { c = Conv(x, w)  n = BatchNormalization(c, s, b, m, v)  y = Clip(n, low, high) }"""
    model = onnx.parser.parse_model(text)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((4, 3, 3, 3), np.float32), "w"))
    path = tmp_path / "m.onnx"
    onnx.save(model, path)
    assert read_onnx_file(path).params == profile(read_onnx(path)).params == 4 * 27 + 8


def test_external_data_counts_and_stays_in_its_folder(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    model = onnx.load_from_string(BYTES)
    onnx.save(model, path, save_as_external_data=True, location="m.bin", size_threshold=64)
    data = (tmp_path / "m.bin").stat().st_size
    assert data > 0
    found = read_onnx_file(path)
    assert found.size_bytes == path.stat().st_size + data
    assert found.params == 8 * 27 + 8 + 8 * 16 + 5 + 16
    (tmp_path / "m.bin").unlink()
    with pytest.raises(UsageError, match="not beside it"):
        read_onnx_file(path)
    (tmp_path / "inner").mkdir()
    (tmp_path / "m.bin").write_bytes(b"x")
    (tmp_path / "inner" / "m.onnx").write_bytes(path.read_bytes().replace(b"m.bin", b"../m."))
    (tmp_path / "m.").write_bytes(b"x")
    with pytest.raises(UsageError, match="outside its own folder"):
        read_onnx_file(tmp_path / "inner" / "m.onnx")


@pytest.mark.parametrize(
    "content",
    [b"", b"hello, this is not a model", b"\x89PNG\r\n\x1a\n", b"\x00" * 64, b"\xff" * 64, b"PK\x03\x04" * 9],
)
def test_what_is_not_onnx_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    with pytest.raises(UsageError, match="not an ONNX model"):
        read_onnx_file(path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.onnx", tmp_path):
        with pytest.raises(UsageError):
            read_onnx_file(path)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, len(BYTES) - 1))
def test_a_file_cut_short_anywhere_is_never_taken_for_a_smaller_model(
    tmp_path_factory: pytest.TempPathFactory, length: int
) -> None:
    path = tmp_path_factory.mktemp("cut") / "m.onnx"
    path.write_bytes(BYTES[:length])
    try:
        found = read_onnx_file(path)
    except UsageError:
        return
    assert found.params == 8 * 27 + 8 + 8 * 16 + 5 + 16, "only metadata after the graph may be missing"


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(BYTES) - 1), st.integers(0, 255)), min_size=1, max_size=12))
def test_bytes_changed_at_random_give_figures_or_a_usage_error(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, int]]
) -> None:
    content = bytearray(BYTES)
    for at, byte in changes:
        content[at] = byte
    path = tmp_path_factory.mktemp("changed") / "m.onnx"
    path.write_bytes(content)
    with contextlib.suppress(UsageError):
        assert 0 <= read_onnx_file(path).params < 2**60


def test_operators_in_the_bodies_of_control_flow_count(tmp_path: Path) -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]> g (float[n] x, bool c) => (float[n] y) {
        y = If (c) <then_branch = a () => (float[n] t) { t = Erf (x) },
                    else_branch = b () => (float[n] e) { e = Relu (x) }>
    }"""
    path = tmp_path / "if.onnx"
    onnx.save(onnx.parser.parse_model(text), path)
    assert read_onnx_file(path).operators == {"If": 1, "Erf": 1, "Relu": 1}


def test_bodies_in_bodies_without_end_are_refused(tmp_path: Path) -> None:
    def field(number: int, content: bytes) -> bytes:
        length, size = len(content), b""
        while length > 127:
            size, length = size + bytes([length & 127 | 128]), length >> 7
        return bytes([number << 3 | 2]) + size + bytes([length]) + content

    graph = b""
    for _ in range(3_000):
        graph = field(1, field(5, field(6, graph)))
    path = tmp_path / "deep.onnx"
    path.write_bytes(b"\x08\x08" + field(7, graph))
    with pytest.raises(UsageError, match="is not an ONNX model"):
        read_onnx_file(path)
