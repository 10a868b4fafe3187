"""The deployment form computes the same with less."""

from collections import Counter
from itertools import pairwise

import numpy as np
import onnx.parser
import pytest
from onnx import helper, numpy_helper

from edgeopt.model import Meta, Model, passes
from edgeopt.model import simplify as module
from edgeopt.model.child import NativeFailed
from edgeopt.model.runtime import open_session, run
from edgeopt.model.shapes import infer_shapes
from edgeopt.model.simplify import same_outputs, simplify, split_batchnorm
from edgeopt.progress import Progress

RNG = np.random.default_rng(0)


class Warnings(Progress):
    def __init__(self):
        self.messages = []

    def warn(self, message):
        self.messages.append(message)


def build(nodes, x, y, opset=18, **weights):
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", 1, x)],
        [helper.make_tensor_value_info("y", 1, y)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    return Model.from_proto(proto)


def batchnorm(channels, prefix="bn"):
    names = [f"{prefix}.{part}" for part in ("weight", "bias", "running_mean", "running_var")]
    arrays = [
        RNG.normal(size=channels),
        RNG.normal(size=channels),
        RNG.normal(size=channels),
        RNG.uniform(0.5, 2, channels),
    ]
    return names, {name: array.astype(np.float32) for name, array in zip(names, arrays, strict=True)}


def weight(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def operators(model):
    return Counter(node.op_type for node in model.graph.graph)


def outputs(model, shape):
    x = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    return run(open_session(model, optimize=False), x)


LAYERS = {
    "conv": ("Conv", (6, 4, 3, 3), {}, ["n", 4, 5, 5], 6),
    "conv1d": ("Conv", (6, 4, 3), {}, ["n", 4, 5], 6),
    "depthwise": ("Conv", (4, 1, 3, 3), {"group": 4}, ["n", 4, 5, 5], 4),
    "conv_transpose": ("ConvTranspose", (4, 6, 3, 3), {}, ["n", 4, 5, 5], 6),
    "grouped_conv_transpose": ("ConvTranspose", (4, 3, 3, 3), {"group": 2}, ["n", 4, 5, 5], 6),
    "gemm": ("Gemm", (4, 6), {}, ["n", 4], 6),
    "gemm_transposed": ("Gemm", (6, 4), {"transB": 1, "alpha": 0.5}, ["n", 4], 6),
}


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("kind", LAYERS)
def test_batchnorm_folds_into_the_layer_before_it(kind, with_bias):
    operator, shape, attributes, x, channels = LAYERS[kind]
    names, statistics = batchnorm(channels)
    bias = {"layer.bias": weight(channels)} if with_bias else {}
    nodes = [
        helper.make_node(operator, ["x", "layer.weight", *bias], ["h"], **attributes),
        helper.make_node("BatchNormalization", ["h", *names], ["y"], epsilon=1e-3),
    ]
    model = build(nodes, x, None, **{"layer.weight": weight(*shape)}, **bias, **statistics)
    folded = model.copy()
    assert passes.fold_batchnorm(folded.graph) == 1
    passes.remove_dead(folded.graph)
    assert set(operators(folded)) == {operator}
    assert set(folded.weights()) == {"layer.weight", "layer.bias"}
    assert [info.name for info in folded.outputs] == ["y"]
    feeds = [3, *x[1:]]
    assert same_outputs(outputs(model, feeds), outputs(folded, feeds), 1e-5)


def test_a_bias_that_others_read_too_stays_theirs():
    names, statistics = batchnorm(4)
    nodes = [
        helper.make_node("Conv", ["x", "a.weight", "shared"], ["h"]),
        helper.make_node("BatchNormalization", ["h", *names], ["i"]),
        helper.make_node("Conv", ["i", "b.weight", "shared"], ["y"]),
    ]
    model = build(
        nodes,
        ["n", 4, 3, 3],
        None,
        shared=weight(4),
        **{"a.weight": weight(4, 4, 1, 1), "b.weight": weight(4, 4, 1, 1)},
        **statistics,
    )
    folded = model.copy()
    assert passes.fold_batchnorm(folded.graph) == 1
    np.testing.assert_array_equal(folded.weights()["shared"], model.weights()["shared"])
    assert same_outputs(outputs(model, (2, 4, 3, 3)), outputs(folded, (2, 4, 3, 3)), 1e-5)


@pytest.mark.parametrize("reader", ["another node", "the output"])
def test_a_layer_whose_result_is_read_elsewhere_is_not_folded(reader):
    names, statistics = batchnorm(4)
    nodes = [helper.make_node("Conv", ["x", "w"], ["h"]), helper.make_node("BatchNormalization", ["h", *names], ["i"])]
    nodes += [helper.make_node("Add", ["i", "h"], ["y"])]
    model = build(nodes, ["n", 4, 3, 3], None, w=weight(4, 4, 1, 1), **statistics)
    if reader == "the output":
        graph = model.graph.graph
        graph.outputs.append(next(iter(graph)).outputs[0])
    assert passes.fold_batchnorm(model.copy().graph) == 0


def test_a_batchnorm_with_nothing_to_fold_into_can_become_mul_and_add():
    names, statistics = batchnorm(4)
    nodes = [helper.make_node("Relu", ["x"], ["h"]), helper.make_node("BatchNormalization", ["h", *names], ["y"])]
    model = infer_shapes(build(nodes, ["n", 4, 3, 3], None, **statistics), None)
    assert operators(simplify(model)) == {"Relu": 1, "BatchNormalization": 1}
    split = split_batchnorm(model)
    assert operators(split) == {"Relu": 1, "Mul": 1, "Add": 1}
    assert same_outputs(outputs(model, (2, 4, 3, 3)), outputs(split, (2, 4, 3, 3)), 1e-5)


def test_a_transposed_weight_becomes_a_weight_of_the_same_name():
    nodes = [
        helper.make_node("Transpose", ["a.weight"], ["at"], perm=[1, 0]),
        helper.make_node("MatMul", ["x", "at"], ["h"]),
        helper.make_node("Transpose", ["tied.weight"], ["tt"]),
        helper.make_node("MatMul", ["h", "tt"], ["i"]),
        helper.make_node("MatMul", ["i", "tied.weight"], ["y"]),
    ]
    model = build(nodes, ["n", 4], None, **{"a.weight": weight(6, 4), "tied.weight": weight(5, 6)})
    folded = model.copy()
    assert passes.fold_transposes(folded.graph) == 2
    assert operators(folded) == {"MatMul": 3}
    shapes = {name: array.shape for name, array in folded.weights().items()}
    assert shapes == {"a.weight": (4, 6), "tied.weight": (5, 6), "tied.weight.1": (6, 5)}
    assert same_outputs(outputs(model, (2, 4)), outputs(folded, (2, 4)), 1e-6)
    assert "a.weight" in simplify(model).weights()


@pytest.mark.parametrize("opset", [13, 18])
@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize("axes", [(2, 3), (-1, -2)])
def test_a_mean_over_the_image_is_global_average_pooling(opset, keepdims, axes):
    if opset < 18:
        nodes = [helper.make_node("ReduceMean", ["x"], ["y"], axes=list(axes), keepdims=keepdims)]
        model = build(nodes, ["n", 4, 5, 6], None, opset)
    else:
        nodes = [helper.make_node("ReduceMean", ["x", "axes"], ["y"], keepdims=keepdims)]
        model = build(nodes, ["n", 4, 5, 6], None, opset, axes=np.array(axes))
    simple = model.copy()
    assert passes.mean_to_pool(simple.graph) == 1
    assert operators(simple) == {"GlobalAveragePool": 1} | ({} if keepdims else {"Flatten": 1})
    assert same_outputs(outputs(model, (3, 4, 5, 6)), outputs(simple, (3, 4, 5, 6)))


@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize(("first", "second"), [(3, 2), (2, -1), (-1, -2)])
def test_a_mean_axis_by_axis_is_global_average_pooling(first, second, keepdims):
    if not keepdims and second < 0:
        second = 2  # the axis that is left
    nodes = [
        helper.make_node("ReduceMean", ["x", "first"], ["h"], keepdims=keepdims),
        helper.make_node("ReduceMean", ["h", "second"], ["y"], keepdims=keepdims),
    ]
    model = build(nodes, ["n", 4, 5, 6], None, first=np.array([first]), second=np.array([second]))
    simple = simplify(model)
    assert operators(simple) == {"GlobalAveragePool": 1} | ({} if keepdims else {"Flatten": 1})
    assert same_outputs(outputs(model, (3, 4, 5, 6)), outputs(simple, (3, 4, 5, 6)))


def test_a_mean_that_others_read_half_way_stays():
    nodes = [
        helper.make_node("ReduceMean", ["x", "first"], ["h"], keepdims=1),
        helper.make_node("ReduceMean", ["h", "second"], ["m"], keepdims=1),
        helper.make_node("Add", ["h", "m"], ["y"]),
    ]
    model = build(nodes, ["n", 4, 5, 6], None, first=np.array([3]), second=np.array([2]))
    assert passes.mean_to_pool(model.copy().graph) == 0


@pytest.mark.parametrize("axes", [(1, 2), (-2, -3)])
def test_a_mean_with_the_channels_last_is_global_average_pooling(axes):
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], perm=[0, 2, 3, 1]),
        helper.make_node("ReduceMean", ["t", "axes"], ["y"], keepdims=0),
    ]
    model = build(nodes, ["n", 4, 5, 6], None, axes=np.array(axes))
    simple = simplify(model)
    assert operators(simple) == {"GlobalAveragePool": 1, "Flatten": 1}
    assert same_outputs(outputs(model, (3, 4, 5, 6)), outputs(simple, (3, 4, 5, 6)))


def test_a_mean_over_the_channels_behind_a_transpose_stays():
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], perm=[0, 2, 3, 1]),
        helper.make_node("ReduceMean", ["t", "axes"], ["y"], keepdims=0),
    ]
    model = build(nodes, ["n", 4, 5, 6], None, axes=np.array([1, 3]))
    assert passes.mean_to_pool(model.copy().graph) == 0


def test_a_mean_that_is_flattened_by_a_reshape():
    nodes = [
        helper.make_node("ReduceMean", ["x", "axes"], ["m"], keepdims=0),
        helper.make_node("Reshape", ["m", "shape"], ["y"]),
    ]
    model = build(nodes, ["n", 4, 5, 6], None, axes=np.array([2, 3]), shape=np.array([-1, 4, 1, 1]))
    simple = simplify(model)
    assert "ReduceMean" not in operators(simple)
    assert same_outputs(outputs(model, (3, 4, 5, 6)), outputs(simple, (3, 4, 5, 6)))


@pytest.mark.parametrize("axes", [(1,), (3,), (1, 2, 3), (0, 2, 3)])
def test_other_means_stay(axes):
    nodes = [helper.make_node("ReduceMean", ["x", "axes"], ["y"], keepdims=1)]
    assert passes.mean_to_pool(build(nodes, [2, 4, 5, 6], None, axes=np.array(axes)).graph) == 0


FLATTEN_AS_TORCH_WRITES_IT = """
<ir_version: 8, opset_import: ["" : 18]>
net (float[batch,4,2,2] x) => (float[batch,%s] y)
<int64[1] minus = {-1}, int64[%d] rest = {%s}>
{
    dims = Shape <start = 0, end = 1> (x)
    n = Squeeze (dims)
    n1 = Reshape (n, minus)
    target = Concat <axis = 0> (n1, rest)
    flat = Reshape <allowzero = 1> (x, target)
    y = Relu (flat)
}
"""


@pytest.mark.parametrize("batch", [None, 1])
def test_a_computed_reshape_becomes_static(batch):
    flatten = Model.from_proto(onnx.parser.parse_model(FLATTEN_AS_TORCH_WRITES_IT % ("16", 1, "16")))
    assert operators(simplify(flatten, batch=batch)) == {"Flatten": 1, "Relu": 1}
    split = Model.from_proto(onnx.parser.parse_model(FLATTEN_AS_TORCH_WRITES_IT % ("2,8", 2, "2, 8")))
    simple = simplify(split, batch=batch)
    assert operators(simple) == {"Reshape": 1, "Relu": 1}
    assert simple.outputs[0].shape == (batch or "batch", 2, 8)
    size = batch or 5
    assert same_outputs(outputs(split, (size, 4, 2, 2)), outputs(simple, (size, 4, 2, 2)), 0)


def test_identity_and_dropout_go_and_output_names_stay():
    nodes = [
        helper.make_node("Identity", ["x"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Dropout", ["b"], ["c"]),
        helper.make_node("Identity", ["c"], ["y"]),
    ]
    simple = simplify(build(nodes, ["n", 3], ["n", 3]))
    assert operators(simple) == {"Relu": 1}
    assert [info.name for info in (*simple.inputs, *simple.outputs)] == ["x", "y"]


def test_an_identity_from_input_to_output_stays():
    model = build([helper.make_node("Identity", ["x"], ["y"])], ["n", 3], ["n", 3])
    assert [info.name for info in simplify(model).outputs] == ["y"]


def test_constants_are_folded_and_metadata_kept():
    nodes = [helper.make_node("Mul", ["a", "b"], ["w"]), helper.make_node("MatMul", ["x", "w"], ["y"])]
    model = build(nodes, ["n", 3], None, a=weight(3, 2), b=weight(3, 2)).with_meta(labels=("cat", "dog"))
    simple = simplify(model)
    assert operators(simple) == {"MatMul": 1}
    assert simple.meta == Meta(labels=("cat", "dog"))


def test_equal_biases_stay_one_for_each_layer():
    zeros = np.zeros(4, np.float32)
    nodes = [
        helper.make_node("Conv", ["x", "a.weight", "a.bias"], ["h"]),
        helper.make_node("Conv", ["h", "b.weight", "b.bias"], ["y"]),
    ]
    weights = {"a.weight": weight(4, 4, 1, 1), "b.weight": weight(4, 4, 1, 1), "a.bias": zeros, "b.bias": zeros}
    assert set(simplify(build(nodes, ["n", 4, 3, 3], None, **weights)).weights()) == set(weights)


def relu_twice():
    return build([helper.make_node("Relu", ["x"], ["h"]), helper.make_node("Abs", ["h"], ["y"])], ["n", 3], ["n", 3])


def test_without_onnxsim_the_own_passes_still_count(monkeypatch):
    def crash(operation, model, **settings):
        raise NativeFailed(f"{operation} crashed (SIGSEGV)", reason="crash", where="net")

    monkeypatch.setattr(module, "rewrite", crash)
    names, statistics = batchnorm(4)
    nodes = [helper.make_node("Conv", ["x", "w"], ["h"]), helper.make_node("BatchNormalization", ["h", *names], ["y"])]
    warnings = Warnings()
    model = build(nodes, ["n", 4, 3, 3], None, w=weight(4, 4, 1, 1), **statistics)
    assert operators(simplify(model, progress=warnings)) == {"Conv": 1}
    assert warnings.messages == ["net: simplify crashed (SIGSEGV); going on without onnxsim"]


def test_a_result_that_computes_something_else_is_dropped_with_a_warning(monkeypatch):
    other = build([helper.make_node("Neg", ["x"], ["y"])], ["n", 3], ["n", 3])
    monkeypatch.setattr(module, "rewrite", lambda *_, **__: other)
    warnings = Warnings()
    assert operators(simplify(relu_twice(), progress=warnings)) == {"Relu": 1, "Abs": 1}
    assert len(warnings.messages) == 1
    assert "onnxsim changed what" in warnings.messages[0]


def swinging(*factors):
    """sin(10,000 x), the factor in parts, times the last one: rounding alone changes it by 0.1 %."""
    *parts, last = [np.float32(factor) for factor in factors]
    names = ["x", *(f"h{i}" for i in range(len(parts)))]
    nodes = [helper.make_node("Mul", [a, f"f{i}"], [b]) for i, (a, b) in enumerate(pairwise(names))]
    nodes += [helper.make_node("Sin", [names[-1]], ["s"]), helper.make_node("Mul", ["s", "last"], ["y"])]
    shape = ["n", 3, 16, 16]
    return build(nodes, shape, shape, last=last, **{f"f{i}": part for i, part in enumerate(parts)})


@pytest.mark.parametrize("rewritten", [(10.1, 10000 / 10.1, 1), (1e4, 1.02), (1.0001e4, 1)])
def test_on_an_unsteady_network_rounding_passes_and_a_wrong_rewrite_does_not(rewritten, monkeypatch):
    model, other = swinging(1e4, 1), swinging(*rewritten)
    reference = module.try_out(model, 2)
    found = run(open_session(other, optimize=False), reference[0])
    assert not same_outputs(reference[1], found)  # no rounding that TOLERANCE would let pass
    monkeypatch.setattr(module, "rewrite", lambda *_, **__: other)
    warnings = Warnings()
    simplify(model, progress=warnings)
    equal = len(rewritten) == 3
    assert bool(warnings.messages) != equal


def test_same_outputs_is_relative_to_the_largest_and_refuses_nan():
    big = [np.array([1000.0, 0.0], np.float32)]
    assert same_outputs(big, [np.array([1000.05, 0.05], np.float32)])
    assert not same_outputs(big, [np.array([1000.2, 0.0], np.float32)])
    assert not same_outputs(big, [np.array([np.nan, 0.0], np.float32)])
    assert not same_outputs(big, [np.zeros(3, np.float32)])


def test_the_input_model_is_untouched():
    names, statistics = batchnorm(4)
    nodes = [helper.make_node("Conv", ["x", "w"], ["h"]), helper.make_node("BatchNormalization", ["h", *names], ["y"])]
    model = build(nodes, ["n", 4, 3, 3], None, w=weight(4, 4, 1, 1), **statistics)
    before = model.to_bytes()
    simplify(model, batch=1)
    assert model.to_bytes() == before
