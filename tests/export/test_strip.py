"""The same computation in fewer bytes."""

from itertools import pairwise

import numpy as np
from onnx import helper

from edgeopt.export.strip import strip
from edgeopt.model.runtime import open_session, run
from edgeopt.model.shapes import infer_shapes


def test_outputs_are_bit_identical_and_the_file_is_smaller(float_net, qdq_net):
    for model in (infer_shapes(float_net), infer_shapes(qdq_net(bias=True, softmax=True))):
        x = np.random.default_rng(0).normal(size=(1, *model.inputs[0].shape[1:])).astype(np.float32)
        bare = strip(model)
        np.testing.assert_array_equal(run(open_session(bare), x)[0], run(open_session(model), x)[0])
        assert len(bare.to_bytes()) < 0.8 * len(model.to_bytes())


def test_what_callers_use_stays(float_net):
    bare = strip(float_net)
    assert [info.name for info in (*bare.inputs, *bare.outputs)] == ["x", "y"]
    assert bare.inputs == float_net.inputs
    assert bare.meta == float_net.meta
    assert [node.name for node in bare.graph.graph] == ["stem", "bn", None, None, "head"]


def test_ballast_goes(float_net):
    proto = strip(infer_shapes(float_net)).to_proto()
    assert not proto.graph.value_info
    assert not proto.graph.doc_string
    assert not proto.producer_name
    conv = proto.graph.node[0]
    assert not conv.attribute  # dilations 1 and pads 0 are the defaults
    assert [attribute.name for attribute in proto.graph.node[4].attribute] == ["transB"]


def test_attributes_that_matter_stay(build):
    weights = {"w": np.ones((4, 4, 3, 3), np.float32)}
    conv = helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1], strides=[2, 2], group=1)
    bare = strip(build([conv], ["n", 4, 8, 8], weights))
    assert set(next(iter(bare.graph.graph)).attributes) == {"pads", "strides"}


def test_more_values_than_letters_get_names_of_their_own(build):
    names = ["x", *(f"value_{index}" for index in range(200)), "y"]
    nodes = [helper.make_node("Neg", [a], [b]) for a, b in pairwise(names)]
    bare = strip(build(nodes, [2], {}))
    values = [node.outputs[0].name for node in bare.graph.graph]
    assert len(set(values)) == len(values) == 201
    assert max(map(len, values)) == 2
    x = np.array([1, -2], np.float32)
    np.testing.assert_array_equal(run(open_session(bare), x)[0], -x)


def test_equal_scales_are_stored_once(build):
    nodes = [helper.make_node("Mul", ["x", "a"], ["h"]), helper.make_node("Mul", ["h", "b"], ["y"])]
    bare = strip(build(nodes, [2], {"a": np.float32(3), "b": np.float32(3)}))
    assert len(bare.weights()) == 1


def test_opsets_of_domains_without_a_node_go(build):
    model = build([helper.make_node("Gelu", ["x"], ["y"], domain="com.microsoft")], [2], {})
    model.graph.opset_imports.update({"com.microsoft": 1, "ai.onnx.ml": 3, "left.behind": 1})
    assert {entry.domain for entry in strip(model).to_proto().opset_import} == {"", "com.microsoft"}


def test_zero_points_and_scales_of_equal_layers_are_stored_once(build):
    weights = {f"w{i}": np.full((4, 4, 1, 1), i + 1, np.int8) for i in range(3)}
    weights |= {f"s{i}": np.full(4, 0.5, np.float32) for i in range(3)}
    weights |= {f"z{i}": np.zeros(4, np.int8) for i in range(3)}
    nodes = []
    for i, (a, b) in enumerate(pairwise(["x", "h", "k", "y"])):
        nodes.append(helper.make_node("DequantizeLinear", [f"w{i}", f"s{i}", f"z{i}"], [f"d{i}"], axis=0))
        nodes.append(helper.make_node("Conv", [a, f"d{i}"], [b]))
    bare = strip(build(nodes, [1, 4, 2, 2], weights))
    assert sorted(array.shape for array in bare.weights().values()) == [(4,), (4,)] + [(4, 4, 1, 1)] * 3


def test_the_model_is_untouched(float_net):
    before = float_net.to_bytes()
    strip(float_net)
    assert float_net.to_bytes() == before
