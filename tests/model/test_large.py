"""Models over the 2 GB that one protobuf message can hold: the same results, with the limit set to 100 KB here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.helper as helper
import onnx_ir as ir
import pytest
from onnx import numpy_helper

from edgeopt.errors import StageFailed, UsageError
from edgeopt.model import Model
from edgeopt.model.child import check, convert_opset
from edgeopt.model.external import copy_model, data_file, detached
from edgeopt.model.load import read_onnx, save_model, tidy
from edgeopt.model.profile import profile
from edgeopt.model.runtime import open_session, run
from edgeopt.model.shapes import infer_shapes
from edgeopt.model.simplify import simplify
from edgeopt.report.onnx_file import identify

LIMIT = 100_000


def build(seed: int = 0, opset: int = 17) -> Model:
    """Conv, BatchNormalization, Relu, mean, MatMul, Add, Gemm: 570 KB of weights."""
    random = np.random.default_rng(seed)
    weights = {
        "conv.weight": random.normal(size=(64, 3, 3, 3)),
        "bn.weight": random.uniform(0.5, 1, 64),
        "bn.bias": random.normal(size=64),
        "bn.mean": random.normal(size=64),
        "bn.var": random.uniform(0.5, 1, 64),
        "fc.weight": random.normal(size=(64, 1024)) / 8,
        "fc.bias": random.normal(size=1024),
        "head.weight": random.normal(size=(64, 1024)) / 32,
    }
    nodes = [
        helper.make_node("Conv", ["x", "conv.weight"], ["c"], pads=[1, 1, 1, 1], name="conv"),
        helper.make_node("BatchNormalization", ["c", "bn.weight", "bn.bias", "bn.mean", "bn.var"], ["b"], name="bn"),
        helper.make_node("Relu", ["b"], ["r"], name="relu"),
        helper.make_node("GlobalAveragePool", ["r"], ["p"], name="pool"),
        helper.make_node("Flatten", ["p"], ["f"], name="flatten"),
        helper.make_node("MatMul", ["f", "fc.weight"], ["m"], name="fc"),
        helper.make_node("Add", ["m", "fc.bias"], ["a"], name="add"),
        helper.make_node("Gemm", ["a", "head.weight"], ["y"], transB=1, name="head"),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", 1, ["batch", 3, 8, 8])],
        [helper.make_tensor_value_info("y", 1, ["batch", 64])],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    return tidy(Model.from_proto(proto)).with_meta(labels=("a", "b"))


X = np.random.default_rng(1).normal(size=(2, 3, 8, 8)).astype(np.float32)


@pytest.fixture(scope="module")
def inline() -> tuple[Model, np.ndarray]:
    model = build()
    return model, run(open_session(model), X)[0]


@pytest.fixture
def limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeopt.model.external.INLINE_BYTES", LIMIT)


@pytest.fixture
def stored(tmp_path: Path, limit: None) -> Path:
    save_model(build(), tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


def test_it_is_written_as_two_files_that_others_read(stored: Path, inline: tuple[Model, np.ndarray]) -> None:
    assert stored.stat().st_size < 5_000
    assert data_file(stored).stat().st_size > 500_000
    assert {path.name for path in stored.parent.iterdir()} == {"model.onnx", "model.onnx.data"}
    onnx.checker.check_model(str(stored), full_check=True)
    np.testing.assert_array_equal(run(open_session(stored), X)[0], inline[1])


def test_reading_it_maps_the_weights_and_keeps_the_metadata(stored: Path, inline: tuple[Model, np.ndarray]) -> None:
    model = read_onnx(stored)
    tensor = model.graph.graph.initializers["fc.weight"].const_value
    assert isinstance(tensor, ir.ExternalTensor)
    assert model.meta == inline[0].meta
    np.testing.assert_array_equal(model.weights()["fc.weight"], inline[0].weights()["fc.weight"])
    assert isinstance(model.copy().graph.graph.initializers["fc.weight"].const_value, ir.ExternalTensor)


def test_below_the_limit_external_data_is_read_into_memory(
    stored: Path, inline: tuple[Model, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    model = read_onnx(stored)
    data_file(stored).unlink()
    assert model.fingerprint() == inline[0].fingerprint()


def test_a_session_runs_it_from_memory(limit: None, inline: tuple[Model, np.ndarray]) -> None:
    np.testing.assert_array_equal(run(open_session(build()), X)[0], inline[1])


def test_the_session_outlives_the_model_and_its_file(stored: Path, inline: tuple[Model, np.ndarray]) -> None:
    session = open_session(read_onnx(stored))
    data_file(stored).unlink()
    np.testing.assert_array_equal(run(session, X)[0], inline[1])


def test_no_proto_holds_the_weights(limit: None) -> None:
    proto, weights = detached(build())
    assert proto.ByteSize() < 5_000
    assert set(weights) == {"conv.weight", "fc.weight", "fc.bias", "head.weight"}


def test_the_fingerprint_sees_weights_labels_and_graph(limit: None) -> None:
    model = build()
    assert build().fingerprint() == model.fingerprint()
    assert model.with_meta(provenance={"seed": "1"}).fingerprint() == model.fingerprint()
    others = [build(seed=1), build(opset=18), model.with_meta(labels=("a", "c"))]
    assert len({other.fingerprint() for other in [model, *others]}) == 4


def test_its_size_counts_both_files(stored: Path) -> None:
    size = stored.stat().st_size + data_file(stored).stat().st_size
    assert abs(build().size_bytes - size) < 300
    assert profile(build()).file_bytes == build().size_bytes
    sha256, both = identify(stored)
    assert both == size
    data_file(stored).write_bytes(data_file(stored).read_bytes()[:-1] + b"!")
    assert identify(stored) != (sha256, both)


def test_shapes_opset_and_simplification_work_on_a_skeleton(limit: None, inline: tuple[Model, np.ndarray]) -> None:
    model = build(opset=13)
    shaped = infer_shapes(model, None)
    assert [str(dim) for dim in next(v for v in shaped.graph.graph[-2].outputs).shape] == ["batch", "1024"]
    newer = convert_opset(model, 18)
    assert newer.graph.opset_imports[""] == 18
    assert newer.meta == model.meta
    warnings: list[str] = []
    simple = simplify(newer, progress=_Listening(warnings))
    assert not warnings
    operators = {node.op_type for node in simple.graph.graph}
    assert {"Conv", "Gemm"} <= operators
    assert "BatchNormalization" not in operators
    assert set(simple.weights()) <= set(model.weights()) | {"conv.bias", "bn.bias"}
    np.testing.assert_allclose(run(open_session(simple), X)[0], inline[1], atol=1e-4)


class _Listening:
    def __init__(self, warnings: list[str]) -> None:
        self.warn = warnings.append


def test_the_checker_says_why_it_cannot(limit: None) -> None:
    with pytest.raises(StageFailed, match="over 2 GB"):
        check(build())


def test_a_copy_takes_its_data_along_and_replaces_what_was_there(
    stored: Path, tmp_path: Path, inline: tuple[Model, np.ndarray]
) -> None:
    target = tmp_path / "elsewhere" / "model.onnx"
    save_model(build(seed=3), target)
    copy_model(stored, target)
    np.testing.assert_array_equal(run(open_session(target), X)[0], inline[1])
    save_model(build(seed=3), stored)  # what was published is not touched by a later run
    np.testing.assert_array_equal(run(open_session(target), X)[0], inline[1])


def test_a_missing_data_file_is_named(stored: Path) -> None:
    data_file(stored).unlink()
    with pytest.raises(UsageError, match=r"model\.onnx\.data' is missing"):
        read_onnx(stored)


def test_a_data_file_cut_short_is_refused(stored: Path) -> None:
    with data_file(stored).open("r+b") as file:
        file.truncate(1000)
    with pytest.raises(UsageError, match="cut short"):
        read_onnx(stored)
