"""A model takes the form of its tier: precision, batch, opset."""

from collections import Counter

import numpy as np
import onnx_ir as ir
import pytest
from onnx import helper

from edgeopt.errors import StageFailed
from edgeopt.export import legalize as module
from edgeopt.export.legalize import legalize, verify
from edgeopt.export.precision import precision_of
from edgeopt.model.child import NativeFailed
from edgeopt.model.runtime import open_session, run
from edgeopt.model.simplify import random_feeds
from edgeopt.progress import Progress


class Warnings(Progress):
    def __init__(self):
        self.messages = []

    def warn(self, message):
        self.messages.append(message)


def operators(model):
    return Counter(node.op_type for node in model.graph.graph)


def test_a_float_model_takes_the_first_float_precision(float_net, tier):
    assert precision_of(legalize(float_net, tier(precisions=("int8", "fp16", "fp32")))) == "fp16"
    assert precision_of(legalize(float_net, tier(precisions=("fp32", "fp16")))) == "fp32"


def test_it_is_simplified_and_keeps_metadata(float_net, tier):
    legal = legalize(float_net, tier())
    assert operators(legal) == {"Conv": 1, "Relu": 1, "GlobalAveragePool": 1, "Flatten": 1, "Gemm": 1}
    assert legal.meta == float_net.meta


def test_the_batch_is_as_the_tier_wants(qdq_net, tier):
    assert legalize(qdq_net(), tier(dynamic_batch=True)).inputs[0].shape == ("n", 4, 6, 6)
    fixed = legalize(qdq_net(), tier(dynamic_batch=False))
    assert fixed.inputs[0].shape == (1, 4, 6, 6)
    assert fixed.outputs[0].shape == (1, 4, 4, 4)


def test_an_int8_model_keeps_its_pairs(qdq_net, tier):
    model = qdq_net(bias=True)
    legal = legalize(model, tier(dynamic_batch=False))
    assert operators(legal) == operators(model)
    assert precision_of(legal) == "int8"
    assert legal.weights()["stem.weight"].dtype == np.int8
    x = np.random.default_rng(0).normal(size=(1, 4, 6, 6)).astype(np.float32)
    np.testing.assert_array_equal(run(open_session(legal), x)[0], run(open_session(model), x)[0])


@pytest.mark.parametrize("opset", [19, 21])
def test_the_opset_is_the_tiers(qdq_net, tier, opset):
    legal = legalize(qdq_net(), tier(opset=opset))
    assert legal.graph.opset_imports[""] == opset


def test_an_opset_out_of_reach_is_left_with_a_warning(qdq_net, tier, monkeypatch):
    def crash(model, opset):
        raise NativeFailed("convert_opset crashed (SIGSEGV)", reason="crash")

    monkeypatch.setattr(module, "convert_opset", crash)
    warnings = Warnings()
    legal = legalize(qdq_net(), tier(opset=18), progress=warnings)
    assert legal.graph.opset_imports[""] == 20
    assert warnings.messages == ["convert_opset crashed (SIGSEGV); the artifact stays at opset 20"]


def test_a_form_that_computes_something_else_is_not_accepted(float_net, tier):
    other = float_net.copy()
    bias = other.graph.graph.initializers["head.bias"]
    bias.const_value = ir.tensor(bias.const_value.numpy() + 1, name="head.bias")
    with pytest.raises(StageFailed, match="differs from the model"):
        verify(float_net, other, tier(), random_feeds(float_net, 1))


def test_half_precision_that_overflows_on_the_sample_keeps_float32_there_and_says_so(build, tier):
    model = build([helper.make_node("Exp", ["x"], ["h"]), helper.make_node("Log", ["h"], ["y"])], ["n", 2], {})
    feeds, warnings = {"x": np.array([[1, 12]], np.float32)}, Warnings()
    legal = legalize(model, tier(precisions=("fp16",)), feeds=feeds, progress=warnings)
    assert operators(legal) == {"Exp": 1, "Log": 1}
    assert warnings.messages == [
        "float16 is too small for 2 nodes, which stay in float32: h (writes 1.63e+05), y (reads 1.63e+05)"
    ]


def test_without_a_sample_operators_stay_in_float32_by_rule(build, tier):
    model = build([helper.make_node("Softmax", ["x"], ["h"]), helper.make_node("Neg", ["h"], ["y"])], ["n", 2], {})
    types = {}
    for name, feeds in (("rule", None), ("sample", {"x": np.ones((1, 2), np.float32)})):
        legal = legalize(model, tier(precisions=("fp16",)), feeds=feeds)
        types[name] = [node.inputs[0].dtype.name for node in legal.graph.graph if node.op_type in ("Softmax", "Neg")]
    assert types == {"rule": ["FLOAT", "FLOAT16"], "sample": ["FLOAT16", "FLOAT16"]}


def test_outputs_that_are_not_finite_are_not_accepted(build, tier):
    model = build([helper.make_node("Log", ["x"], ["y"])], ["n", 2], {})
    with pytest.raises(StageFailed, match="NaN or infinite"):
        verify(model, model, tier(), {"x": np.array([[-1, 1]], np.float32)})
