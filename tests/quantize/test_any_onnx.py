"""Odd but valid ONNX files: what can be quantized is, the rest is left alone, and the answers stay right."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeopt.errors import EdgeoptError, UsageError
from edgeopt.model import Model
from edgeopt.model.load import read_onnx
from edgeopt.model.runtime import open_session, run
from edgeopt.quantize import Quantize
from edgeopt.quantize.prepare import prepare
from edgeopt.quantize.weight_only import quantize_weights_only
from edgeopt.stage import Context
from edgeopt.tiers import load_tier

Fixture = Callable[..., Any]
ANY = load_tier("any")
UNSIMPLIFIED = pytest.mark.usefixtures("unsimplified")
"""Seconds less for what does not need a child process."""
F32 = np.float32


def node(operator: str, inputs: str, outputs: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(operator, inputs.split(" "), outputs.split(" "), **attributes)


def value(name: str, shape: Any = None, dtype: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, shape)


def weight(*shape: int, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    return (random.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))).astype(F32)


class Build:
    """Writes a file and reads it back, as a user's file comes in."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "net.onnx"

    def __call__(
        self, nodes: Any, weights: Any, outputs: Any, opset: int = 17, inputs: Any = None, **more: Any
    ) -> Model:
        graph = helper.make_graph(
            nodes,
            "net",
            inputs or [value("x", ["n", 3, 8, 8])],
            [value(name) if isinstance(name, str) else name for name in outputs],
            [numpy_helper.from_array(array, name) for name, array in weights.items()],
        )
        opsets = [helper.make_opsetid("", opset)] + [helper.make_opsetid(d, 1) for d in more.get("domains", ())]
        proto = helper.make_model(graph, opset_imports=opsets, ir_version=more.get("ir_version", 8))
        self.path.write_bytes(proto.SerializeToString())
        return read_onnx(self.path)


@pytest.fixture
def build(tmp_path: Path) -> Build:
    return Build(tmp_path)


@pytest.fixture
def quantize(make_images: Fixture, make_context: Fixture, measure_sqnr: Fixture) -> Callable[..., Model]:
    """Quantized on `any`, after which every output is within reach of the float one."""

    def quantize(model: Model, *, least: float = 20, shape: Any = (3, 8, 8)) -> Model:
        x = make_images(16, shape)
        found = Quantize(samples=16).apply(model, make_context(x, tier=ANY)).model
        if all(output.shape for output in model.outputs):  # the checker wants a shape for each output
            onnx.checker.check_model(found.to_proto(), full_check=True)
        for a, b in zip(run(open_session(model), x), run(open_session(found), x), strict=True):
            assert a.shape == b.shape
            if a.dtype == F32 and not np.array_equal(a, b):
                assert measure_sqnr(a, b) > least
        return found

    return quantize


def count(model: Model, operator: str) -> int:
    return sum(node.op_type == operator for node in model.graph.graph.all_nodes())


W = {"w": weight(16, 3, 3, 3), "b": weight(16, 1)[:, 0], "v": weight(16, 16, 3, 3, seed=1)}
CONV = node("Conv", "x w b", "c", name="conv", pads=[1, 1, 1, 1])


def test_a_tensor_read_in_the_body_of_an_if(build: Build, quantize: Fixture) -> None:
    """The body reads `r`, which is quantized outside, and a weight of the outer graph."""
    then = helper.make_graph([node("Conv", "r v", "t", name="inner", pads=[1] * 4)], "then", [], [value("t")])
    other = helper.make_graph([node("Neg", "r", "e", name="conv")], "else", [], [value("e")])
    nodes = [
        CONV,
        node("Relu", "c", "r", name="relu"),
        node("ReduceMax", "x", "top", keepdims=0),
        node("Greater", "top zero", "flag"),
        helper.make_node("If", ["flag"], ["i"], name="branch", then_branch=then, else_branch=other),
        node("Conv", "i v", "y", name="last", pads=[1] * 4),
    ]
    model = build(nodes, W | {"zero": F32(0)}, ["y"])
    found = quantize(model)
    bodies = [n for n in found.graph.graph.all_nodes() if n.graph is not found.graph.graph]
    assert {n.op_type for n in bodies} == {"Conv", "Neg"}  # nothing is added inside
    assert found.weights()["v"].dtype == F32  # the body's
    assert sum(array.dtype == np.int8 and array.ndim == 4 for array in found.weights().values()) == 2


@UNSIMPLIFIED
def test_a_loop_over_the_outer_graphs_tensors(build: Build, quantize: Fixture) -> None:
    body = helper.make_graph(
        [node("Add", "a r", "s"), node("Identity", "go", "on")],
        "body",
        [value("i", [], TensorProto.INT64), value("go", [], TensorProto.BOOL), value("a")],
        [value("on", [], TensorProto.BOOL), value("s")],
    )
    nodes = [
        CONV,
        node("Relu", "c", "r"),
        helper.make_node("Loop", ["three", "", "r"], ["l"], name="loop", body=body),
        node("Conv", "l v", "y", pads=[1] * 4),
    ]
    found = quantize(build(nodes, W | {"three": np.int64(3)}, ["y"]))
    assert count(found, "Loop") == 1


def test_operators_of_other_domains_that_onnxruntime_knows(build: Build, quantize: Fixture) -> None:
    nodes = [
        CONV,
        helper.make_node("Gelu", ["c"], ["g"], domain="com.microsoft"),
        node("Conv", "g v", "y", pads=[1] * 4),
    ]
    found = quantize(build(nodes, W, ["y"], domains=["com.microsoft"]))
    assert any(n.domain == "com.microsoft" for n in found.graph.graph)
    assert count(found, "QuantizeLinear") >= 2


def test_an_operator_that_nobody_knows_is_refused_in_a_sentence(
    build: Build, make_images: Fixture, make_context: Fixture
) -> None:
    nodes = [CONV, helper.make_node("Warp", ["c"], ["g"], domain="my.company"), node("Relu", "g", "y")]
    model = build(nodes, W, ["y"], domains=["my.company"])
    with pytest.raises(EdgeoptError, match="Warp"):
        Quantize(samples=4).apply(model, make_context(make_images(4, (3, 8, 8)), tier=ANY))


def test_weight_only_leaves_bodies_and_other_domains_alone(build: Build) -> None:
    then = helper.make_graph([node("MatMul", "f m", "t", name="inner")], "then", [], [value("t")])
    other = helper.make_graph([node("Neg", "f", "e")], "else", [], [value("e")])
    nodes = [
        node("Flatten", "x", "f"),
        node("ReduceMax", "x", "top", keepdims=0),
        node("Greater", "top zero", "flag"),
        helper.make_node("If", ["flag"], ["i"], name="branch", then_branch=then, else_branch=other),
        node("MatMul", "i m", "p", name="outer"),
        helper.make_node("Warp", ["p"], ["y"], domain="my.company"),
    ]
    model = build(nodes, {"m": weight(192, 192), "zero": F32(0)}, ["y"], domains=["my.company"])
    for n in model.graph.graph.all_nodes():
        n.outputs[0].dtype = n.outputs[0].dtype or onnx_float()
    found = quantize_weights_only(model, ANY, Context()).model
    assert found.weights()["m"].dtype == F32
    assert found.weights()["m_quantized"].dtype == np.int8
    assert count(found, "Warp") == 1


def onnx_float() -> Any:
    import onnx_ir as ir

    return ir.DataType.FLOAT


@UNSIMPLIFIED
def test_no_node_to_quantize(build: Build, quantize: Fixture) -> None:
    found = quantize(build([node("Sin", "x", "s"), node("Sub", "s x", "y")], {}, ["y"]))
    assert count(found, "QuantizeLinear") == 0


@UNSIMPLIFIED
def test_unnamed_and_equally_named_nodes(build: Build, quantize: Fixture) -> None:
    nodes = [
        node("Conv", "x w b", "c", pads=[1] * 4),
        node("Relu", "c", "r"),
        node("Conv", "r v", "d", name="same", pads=[1] * 4),
        node("Relu", "d", "s", name="same"),
        node("Conv", "s v", "y", name="same", pads=[1] * 4),
    ]
    found = quantize(build(nodes, W, ["y"]))
    names = [n.name for n in found.graph.graph]
    assert len(set(names)) == len(names)
    assert sum(array.dtype == np.int8 and array.ndim == 4 for array in found.weights().values()) == 2  # v is shared


def test_initializers_that_are_graph_inputs_too(build: Build, quantize: Fixture) -> None:
    inputs = [value("x", ["n", 3, 8, 8]), value("w", [16, 3, 3, 3]), value("b", [16])]
    model = build([CONV, node("Relu", "c", "y")], {k: W[k] for k in "wb"}, ["y"], inputs=inputs, ir_version=3, opset=11)
    assert [info.name for info in model.inputs] == ["x"]
    assert quantize(model).inputs[0].name == "x"


@UNSIMPLIFIED
def test_a_weight_that_is_an_output_too(build: Build, quantize: Fixture) -> None:
    model = build([CONV, node("Relu", "c", "y")], W, ["y", value("w", [16, 3, 3, 3])])
    np.testing.assert_array_equal(quantize(model).weights()["w"], W["w"])


@UNSIMPLIFIED
def test_an_input_that_is_an_output_too_and_one_value_read_twice(build: Build, quantize: Fixture) -> None:
    nodes = [CONV, node("Add", "c c", "d"), node("Relu", "d", "y")]
    found = quantize(build(nodes, W, ["y", value("x", ["n", 3, 8, 8])]))
    assert [info.name for info in found.outputs] == ["y", "x"]


@UNSIMPLIFIED
def test_a_tensor_that_is_an_output_and_read_on(build: Build, quantize: Fixture) -> None:
    found = quantize(build([CONV, node("Relu", "c", "r"), node("Conv", "r v", "y", pads=[1] * 4)], W, ["c", "r", "y"]))
    assert [info.name for info in found.outputs] == ["c", "r", "y"]


@UNSIMPLIFIED
def test_integers_sequences_and_optionals_pass_through(build: Build, quantize: Fixture) -> None:
    nodes = [
        CONV,
        node("SplitToSequence", "c", "s", axis=1, keepdims=1),
        node("SequenceAt", "s zero", "a"),
        node("ConcatFromSequence", "s", "j", axis=1),
        node("Conv", "j v", "d", pads=[1] * 4),
        node("ArgMax", "d", "top", axis=1),
        node("Optional", "d", "o"),
        node("OptionalGetElement", "o", "y"),
    ]
    outputs = ["y", value("top", None, TensorProto.INT64), "a"]
    found = quantize(build(nodes, W | {"zero": np.int64(0)}, outputs))
    assert count(found, "SplitToSequence") == 1


@pytest.mark.parametrize("kind", [np.float16, np.float64])
def test_other_floats_work_or_say_why(kind: type, build: Build, make_images: Fixture, make_context: Fixture) -> None:
    element = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    nodes = [CONV, node("Relu", "c", "y")]
    inputs = [value("x", ["n", 3, 8, 8], element)]
    model = build(nodes, {k: W[k].astype(kind) for k in "wb"}, [value("y", None, element)], inputs=inputs)
    x = make_images(4, (3, 8, 8)).astype(kind)
    try:
        open_session(model)
    except EdgeoptError as why:
        with pytest.raises(EdgeoptError, match="onnxruntime refuses the model"):
            Quantize(samples=4).apply(model, make_context(x, tier=ANY))
        assert "Conv" in str(why)  # noqa: PT017
    else:
        found = Quantize(samples=4).apply(model, make_context(x, tier=ANY)).model
        np.testing.assert_allclose(run(open_session(found), x)[0], run(open_session(model), x)[0], atol=0.05)


@UNSIMPLIFIED
def test_a_uint8_image_as_input(build: Build, make_context: Fixture, measure_sqnr: Fixture) -> None:
    nodes = [node("Cast", "x", "f", to=1), node("Mul", "f k", "m"), node("Conv", "m w b", "y", pads=[1] * 4)]
    model = build(nodes, W | {"k": F32(1 / 255)}, ["y"], inputs=[value("x", ["n", 3, 8, 8], TensorProto.UINT8)])
    x = np.random.default_rng(0).integers(0, 256, (8, 3, 8, 8), np.uint8)
    found = Quantize(samples=8).apply(model, make_context(x, tier=ANY)).model
    assert found.inputs[0].dtype == np.uint8
    assert measure_sqnr(run(open_session(model), x)[0], run(open_session(found), x)[0]) > 25


@UNSIMPLIFIED
def test_a_dynamic_height_and_width(build: Build, quantize: Fixture) -> None:
    nodes = [CONV, node("Relu", "c", "r"), node("GlobalAveragePool", "r", "p"), node("Flatten", "p", "y")]
    found = quantize(build(nodes, W, ["y"], inputs=[value("x", ["n", 3, "h", "w"])]))
    assert count(found, "QuantizeLinear") >= 2


@UNSIMPLIFIED
@pytest.mark.parametrize("opset", [11, 13, 18, 21, 23, onnx.defs.onnx_opset_version()])
def test_every_opset_that_onnxruntime_runs(opset: int, build: Build, quantize: Fixture) -> None:
    nodes = [CONV, node("Relu", "c", "r"), node("GlobalAveragePool", "r", "p"), node("Flatten", "p", "y")]
    model = build(nodes, W, ["y"], opset=opset, ir_version=8 if opset < 20 else 10)
    try:
        open_session(model)
    except EdgeoptError:
        pytest.skip(f"onnxruntime does not run opset {opset}")
    found = quantize(model)
    assert found.graph.opset_imports[""] == min(max(13, opset), 27)


def test_an_opset_beyond_the_runtime_is_refused_in_a_sentence(
    build: Build, make_images: Fixture, make_context: Fixture
) -> None:
    model = build([CONV, node("Relu", "c", "y")], W, ["y"], opset=99)
    with pytest.raises(EdgeoptError, match="onnxruntime refuses the model"):
        Quantize(samples=4).apply(model, make_context(make_images(4, (3, 8, 8)), tier=ANY))


@pytest.mark.parametrize("operator", ["MatMulNBits", "DynamicQuantizeMatMul"])
def test_what_other_quantizers_wrote_is_refused(operator: str, build: Build) -> None:
    nodes = [node("Flatten", "x", "f"), helper.make_node(operator, ["f", "q", "s"], ["y"], domain="com.microsoft")]
    model = build(nodes, {"q": np.zeros((4, 4), np.uint8), "s": np.ones(4, F32)}, ["y"], domains=["com.microsoft"])
    with pytest.raises(UsageError, match=f"quantized already .*{operator}"):
        prepare(model, ANY, Context())


def test_a_graph_of_constants(build: Build) -> None:
    model = build([node("Relu", "w", "y"), node("Identity", "x", "z")], W, ["y", "z"])
    assert prepare(model, ANY, Context()).outputs[0].name == "y"
