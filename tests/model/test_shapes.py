"""Shapes of every value, for a batch size or for any."""

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
from onnx import helper, numpy_helper

from edgeopt.model import Model, shapes
from edgeopt.model.runtime import open_session, run
from edgeopt.model.shapes import infer_shapes, static_shape

FLATTEN_AS_TORCH_WRITES_IT = """
<ir_version: 8, opset_import: ["" : 18]>
net (float[batch,4,2,2] x) => (float[batch,16] y)
<int64[1] minus = {-1}, int64[1] width = {16}>
{
    dims = Shape <start = 0, end = 1> (x)
    n = Squeeze (dims)
    n1 = Reshape (n, minus)
    target = Concat <axis = 0> (n1, width)
    flat = Reshape <allowzero = 1> (x, target)
    y = Relu (flat)
}
"""


def parse(text):
    return Model.from_proto(onnx.parser.parse_model(text))


def shapes_of(model):
    return {v.name: v.shape for node in model.graph.graph for v in node.outputs}


def test_every_value_gets_the_shape_that_onnxruntime_computes():
    model = parse(FLATTEN_AS_TORCH_WRITES_IT)
    shaped = infer_shapes(model, 3)
    names = [name for name, shape in shapes_of(shaped).items() if name != "n"]
    probe = shaped.to_proto()
    del probe.graph.output[:]
    probe.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    results = run(open_session(probe.SerializeToString()), np.zeros((3, 4, 2, 2), np.float32))
    values = {v.name: v for node in shaped.graph.graph for v in node.outputs}
    assert {name: static_shape(values[name]) for name in names} == {
        name: result.shape for name, result in zip(names, results, strict=True)
    }


def test_a_dynamic_batch_keeps_its_name_through_computed_reshapes():
    shaped = infer_shapes(parse(FLATTEN_AS_TORCH_WRITES_IT), None)
    assert list(shapes_of(shaped)["flat"]) == ["batch", 16]
    assert shaped.outputs[0].shape == ("batch", 16)


def test_the_input_model_is_untouched():
    model = parse(FLATTEN_AS_TORCH_WRITES_IT)
    before = model.to_bytes()
    infer_shapes(model, 2)
    assert model.to_bytes() == before


def test_large_weights_come_back_and_do_not_travel(monkeypatch):
    weight = np.arange(64 * 64, dtype=np.float32).reshape(64, 64)
    model = _matmul(weight)
    sent = []
    real = shapes.run_native

    def spy(operation, light, **settings):
        sent.append(light.to_bytes())
        return real(operation, light, **settings)

    monkeypatch.setattr(shapes, "run_native", spy)
    shaped = infer_shapes(model, 5)
    assert shaped.outputs[0].shape == (5, 64)
    assert len(sent[0]) < 1000 < weight.nbytes
    np.testing.assert_array_equal(shaped.weights()["w"], weight)
    assert [info.name for info in shaped.inputs] == ["x"]


def _matmul(weight):
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "net",
        [helper.make_tensor_value_info("x", 1, ["n", weight.shape[0]])],
        [helper.make_tensor_value_info("y", 1, None)],
        [numpy_helper.from_array(weight, "w")],
    )
    return Model.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]))


def test_stale_inner_shapes_are_inferred_anew():
    model = parse(
        '<ir_version: 8, opset_import: ["" : 17]> net (float[n,3] x) => (float[n,3] y) { h = Relu(x)  y = Relu(h) }'
    )
    next(iter(model.graph.graph)).outputs[0].shape = ir.Shape([7, 99])
    assert list(shapes_of(infer_shapes(model, 2))["h"]) == [2, 3]


def test_a_static_batch_stays():
    model = parse('<ir_version: 8, opset_import: ["" : 17]> net (float[4,3] x) => (float[4,3] y) { y = Relu(x) }')
    assert infer_shapes(model, 1).outputs[0].shape == (4, 3)


def test_every_input_with_the_same_symbol_gets_the_batch():
    model = parse(
        '<ir_version: 8, opset_import: ["" : 17]>'
        "net (float[n,3] a, float[3,n] b, float[k,3] c) => (float[n,n] y, float[k,3] z)"
        "{ y = MatMul(a, b)  z = Relu(c) }"
    )
    shaped = infer_shapes(model, 2)
    assert [info.shape for info in shaped.inputs] == [(2, 3), (3, 2), (2, 3)]
    assert [info.shape for info in shaped.outputs] == [(2, 2), (2, 3)]


def test_an_operator_that_nobody_knows_costs_its_own_shape_only():
    model = parse(
        '<ir_version: 8, opset_import: ["" : 17, "custom" : 1]> net (float[n,3] x) => (float[n,3] y)'
        " { a = Relu(x)  b = custom.Mystery(a)  y = Relu(b) }"
    )
    shapes = shapes_of(infer_shapes(model, 2))
    assert list(shapes["a"]) == [2, 3]
    assert shapes["b"] is None
    assert list(shapes["y"]) == [2, 3]  # what the file says of its output


def test_static_shape_of_unknown_is_none():
    shaped = infer_shapes(parse(FLATTEN_AS_TORCH_WRITES_IT), None)
    assert static_shape(None) is None
    assert static_shape(shaped.graph.graph.outputs[0]) is None
