"""Costs against figures that others published, and against counting by hand."""

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edgeopt.errors import StageFailed
from edgeopt.model import Model
from edgeopt.model.memory import constant_values, lifetimes
from edgeopt.model.profile import profile

RNG = np.random.default_rng(0)


def build(nodes, x, y=("y",), opset=20, inputs=(), **weights):
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", 1, x), *inputs],
        [helper.make_tensor_value_info(name, 1, None) for name in y],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()],
    )
    return Model.from_proto(helper.make_model(graph, opset_imports=opsets, ir_version=9))


def weight(*shape, dtype=np.float32):
    return np.ones(shape, dtype)


def node(operator, inputs, outputs="y", **attributes):
    return helper.make_node(operator, inputs.split(), outputs.split(), name=f"{operator}_{outputs}", **attributes)


BY_HAND = {
    "conv": (node("Conv", "x w", strides=[2, 2]), (1, 3, 9, 9), {"w": weight(8, 3, 3, 3)}, 8 * 4 * 4 * 27),
    "conv1d": (node("Conv", "x w"), (1, 3, 9), {"w": weight(8, 3, 3)}, 8 * 7 * 9),
    "depthwise": (node("Conv", "x w", group=4), (1, 4, 5, 5), {"w": weight(4, 1, 3, 3)}, 4 * 9 * 9),
    "grouped": (node("Conv", "x w", group=2), (1, 4, 5, 5), {"w": weight(6, 2, 3, 3)}, 6 * 9 * 18),
    "transposed": (node("ConvTranspose", "x w", strides=[2, 2]), (1, 4, 5, 5), {"w": weight(4, 6, 2, 2)}, 100 * 24),
    "gemm": (node("Gemm", "x w b"), (1, 4), {"w": weight(4, 6), "b": weight(6)}, 24),
    "gemm_transposed": (node("Gemm", "x w", transA=1, transB=1), (4, 3), {"w": weight(6, 4)}, 3 * 6 * 4),
    "matmul_of_activations": (node("MatMul", "x x"), (1, 2, 5, 5), {}, 2 * 5 * 5 * 5),
    "einsum": (node("Einsum", "x w", equation="bij,jk->bik"), (2, 3, 4), {"w": weight(4, 5)}, 2 * 3 * 4 * 5),
    "lstm": (node("LSTM", "x w r", hidden_size=5), (7, 2, 3), {"w": weight(1, 20, 3), "r": weight(1, 20, 5)}, 14 * 160),
    "max_pool": (node("MaxPool", "x", kernel_shape=[2, 2]), (1, 3, 4, 4), {}, 0),
    "softmax": (node("Softmax", "x"), (1, 10), {}, 0),
    "multiply": (node("Mul", "x w"), (1, 10), {"w": weight(10)}, 0),
}


@pytest.mark.parametrize("kind", BY_HAND)
def test_macs_counted_by_hand(kind):
    operator, x, weights, macs = BY_HAND[kind]
    assert profile(build([operator], x, **weights)).macs == macs


def test_macs_grow_with_the_batch_and_parameters_do_not():
    model = build([node("Conv", "x w b")], ["n", 3, 8, 8], w=weight(4, 3, 3, 3), b=weight(4))
    one, four = profile(model, 1), profile(model, 4)
    assert (four.macs, four.params) == (4 * one.macs, one.params)
    assert one.params == 4 * 27 + 4
    assert four.peak_ram_bytes == 4 * one.peak_ram_bytes


@pytest.mark.slow
def test_resnet8_has_the_published_macs():
    from edgeopt.model.load import load_model

    costs = profile(load_model("edgeopt:residual", weights="none"))
    assert costs.macs == 12_501_632  # MLPerf Tiny, image classification
    assert sum(layer.params for layer in costs.layers if layer.op in ("Conv", "Gemm")) == 77_360 + 10


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "shufflenet_v2_x1_0", "squeezenet1_1"])
def test_torchvision_published_the_same_figures(name):
    torchvision = pytest.importorskip("torchvision")
    from edgeopt.model.load import load_model

    published = torchvision.models.get_model_weights(name).DEFAULT.meta
    costs = profile(load_model(f"torchvision:{name}", weights="none"))
    assert costs.params == published["num_params"]
    assert costs.macs / 1e9 == pytest.approx(published["_ops"], abs=0.0006)  # published to three decimals


def test_batchnorm_counts_what_is_trained():
    statistics = {name: weight(6) for name in ("s", "b", "m", "v")}
    model = build([node("BatchNormalization", "x s b m v")], (1, 6, 2, 2), **statistics)
    assert profile(model).params == 12


def test_a_shared_weight_and_a_shape_count_once_and_never():
    nodes = [
        node("MatMul", "x w", "a"),
        node("MatMul", "a w", "b"),
        node("Reshape", "b shape"),
    ]
    costs = profile(build(nodes, (1, 4), w=weight(4, 4), shape=np.array([2, 2])))
    assert costs.params == 16
    assert costs.macs == 32


def test_layers_are_called_as_in_torch():
    nodes = [node("Conv", "x layer1.0.conv1.weight", "a"), node("Relu", "a")]
    costs = profile(build(nodes, (1, 3, 4, 4), **{"layer1.0.conv1.weight": weight(2, 3, 3, 3)}))
    assert [layer.name for layer in costs.layers] == ["layer1.0.conv1", "Relu_y"]
    assert costs.layers[0].weight_bytes == 4 * 54


def test_a_linear_layer_is_called_as_in_torch_though_its_weight_is_transposed():
    nodes = [node("Transpose", "head.weight", "t"), node("MatMul", "x t")]
    costs = profile(build(nodes, (1, 4), **{"head.weight": weight(3, 4)}))
    assert [(layer.name, layer.params) for layer in costs.layers] == [("head", 12)]


def test_file_bytes_are_those_of_the_file():
    model = build([node("MatMul", "x w")], (1, 40), w=weight(40, 40))
    assert profile(model).file_bytes == len(model.to_bytes())


def test_residual_memory_by_hand():
    nodes = [
        node("Relu", "x", "a"),  # x, a
        node("Sigmoid", "a", "b"),  # a, b
        node("Tanh", "b", "c"),  # a, b, c: the peak
        node("Add", "a c", "d"),  # a, c, d
        node("GlobalAveragePool", "d"),
    ]
    costs = profile(build(nodes, (1, 2, 4, 4)))
    tensor = 2 * 16 * 4
    assert [layer.live_bytes for layer in costs.layers] == [2 * tensor, 2 * tensor, 3 * tensor, 3 * tensor, tensor + 8]
    assert (costs.peak_ram_bytes, costs.peak_layer) == (3 * tensor, "Tanh_c")


def test_views_take_no_memory_and_outputs_live_to_the_end():
    nodes = [node("Relu", "x", "a"), node("Flatten", "a", "b"), node("Sigmoid", "b", "c"), node("Tanh", "c", "d")]
    costs = profile(build(nodes, (1, 2, 2, 2), y=("b", "d")))
    assert [layer.live_bytes for layer in costs.layers] == [64, 32, 64, 96]
    assert [layer.output_bytes for layer in costs.layers] == [32, 0, 32, 32]


def test_a_tensor_lives_until_the_last_reader_of_any_of_its_views():
    nodes = [
        node("Relu", "x", "a"),
        node("Flatten", "a", "b"),
        node("Sigmoid", "b", "c"),
        node("Tanh", "c", "d"),  # nobody reads the view any more, but `a` itself is still needed
        node("GlobalAveragePool", "a", "e"),
    ]
    costs = profile(build(nodes, (1, 2, 2, 2), y=("d", "e")))
    assert costs.layers[3].live_bytes == 32 + 32 + 32


def test_half_precision_takes_half_the_memory():
    nodes = [helper.make_node("Cast", ["x"], ["a"], to=10), node("Relu", "a", "b"), node("Tanh", "b", "c")]
    nodes += [helper.make_node("Cast", ["c"], ["y"], to=1)]
    assert [layer.live_bytes for layer in profile(build(nodes, (1, 8))).layers] == [32 + 16, 32, 32, 16 + 32]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), min_size=1, max_size=12))
def test_lifetimes_agree_with_looking_at_every_tensor_at_every_step(edges):
    names = ["x"]
    nodes = []
    for first, second in edges:
        names.append(f"t{len(nodes)}")
        left, right = (names[choice % (len(names) - 1)] for choice in (first, second))
        nodes.append(helper.make_node("Add", [left, right], [names[-1]]))
    model = build(nodes, (1, 4), y=(names[-1],))
    graph = model.graph.graph
    order = list(graph)
    for step in order:
        step.outputs[0].shape, step.outputs[0].dtype = ir.Shape([1, 4]), ir.DataType.FLOAT
    found = lifetimes(order, graph, constant_values(graph)).live_bytes
    for index in range(len(order)):
        alive = 0
        for value in [*graph.inputs, *(step.outputs[0] for step in order)]:
            made = 0 if value.producer() is None else order.index(value.producer())
            reads = [order.index(reader) for reader, _ in value.uses()]
            last = len(order) - 1 if value in graph.outputs else max([*reads, made])
            alive += made <= index <= last
        assert found[index] == alive * 16


def quantize(source, name):
    return node("QuantizeLinear", f"{source} s z", name)


def dequantize(source, name):
    return node("DequantizeLinear", f"{source} s z", name)


SCALE = {"s": np.float32(0.1), "z": np.int8(0)}


def test_quantized_memory_counts_bytes_not_floats():
    nodes = [
        quantize("x", "xq"),
        dequantize("xq", "xf"),
        dequantize("wq", "wf"),
        node("Conv", "xf wf", "c"),
        node("Relu", "c", "r"),
        quantize("r", "rq"),
        dequantize("rq", "rf"),
        node("MaxPool", "rf", "p", kernel_shape=[2, 2], strides=[2, 2]),
        quantize("p", "pq"),
        dequantize("pq", "y"),
    ]
    costs = profile(build(nodes, (1, 2, 4, 4), wq=weight(8, 2, 1, 1, dtype=np.int8), **SCALE))
    layers = {layer.op: layer for layer in costs.layers}
    assert layers["QuantizeLinear"].live_bytes == 4 * 32 + 32  # the float input and its int8 form
    assert layers["Conv"].live_bytes == 32 + 128  # int8 in, int8 out: Relu and Q are fused
    assert layers["MaxPool"].live_bytes == 128 + 32
    assert layers["DequantizeLinear"].live_bytes == 32 + 4 * 32  # the float output
    assert costs.params == 16
    assert costs.macs == 8 * 16 * 2
    assert [layer.op for layer in costs.layers if layer.output_bytes] == [
        "QuantizeLinear",
        "Conv",
        "MaxPool",
        "DequantizeLinear",
    ]


def test_a_float_operator_after_dequantize_needs_the_float_tensor():
    nodes = [quantize("x", "xq"), dequantize("xq", "xf"), node("Softmax", "xf")]
    costs = profile(build(nodes, (1, 16), **SCALE))
    assert [layer.op for layer in costs.layers] == ["QuantizeLinear", "DequantizeLinear", "Softmax"]
    assert costs.layers[1].live_bytes == 16 + 64


def test_operators_that_only_onnxruntime_knows_are_measured():
    nodes = [
        helper.make_node("FusedMatMul", ["x", "w"], ["a"], domain="com.microsoft", transB=1),
        node("Relu", "a"),
    ]
    costs = profile(build(nodes, ["n", 4], w=weight(6, 4)), batch=3)
    assert costs.macs == 3 * 6 * 4
    assert costs.layers[1].output_bytes == 3 * 6 * 4


def test_an_open_size_is_that_of_the_sample_and_named():
    model = build([node("Conv", "x w")], ["n", 3, "height", "?"], w=weight(4, 3, 3, 3))
    costs = profile(model, batch=2, feeds={"x": np.zeros((1, 3, 10, 12), np.float32)})
    assert costs.macs == 2 * 4 * 8 * 10 * 27
    assert list(costs.sizes.values()) == [10, 12]
    assert "height" in costs.sizes
    made_up = profile(model)
    assert made_up.macs == 4 * (made_up.sizes["height"] - 2) ** 2 * 27
    assert model.inputs[0].shape[2] == "height"


def test_an_operator_that_nobody_knows_is_refused():
    nodes = [helper.make_node("Warp", ["x"], ["a"], domain="com.microsoft"), node("Relu", "a")]
    with pytest.raises(StageFailed, match="is not known"):
        profile(build(nodes, ["n", 3]))


def test_integer_inputs_are_counted_by_their_type():
    ids = helper.make_tensor_value_info("ids", TensorProto.INT64, [1, 6])
    model = build([node("Gather", "table ids", "e"), node("Add", "e x")], (1, 6, 4), inputs=[ids], table=weight(10, 4))
    assert profile(model).layers[0].live_bytes == 6 * 8 + 24 * 4 + 24 * 4
