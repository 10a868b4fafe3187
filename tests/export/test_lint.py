"""Each rule of explicit quantization, kept and broken."""

import numpy as np
import onnx_ir as ir
import pytest

from edgeopt.export.lint import lint
from edgeopt.tiers import Placement, load_tier

TENSORRT = load_tier("jetson").placement

BROKEN = {
    "symmetric_activations": {"zero": np.int8(3)},
    "symmetric_weights": {"weight_zero": 1},
    "per_channel_weights": {"scales": 1},
    "float_bias": {"bias": True},
    "unbroken_fusion": {"pair_before_relu": True},
}


def rules(model, placement=TENSORRT):
    return {finding.rule for finding in lint(model, placement)}


def test_a_file_that_keeps_every_rule_has_no_findings(qdq_net):
    assert lint(qdq_net(), TENSORRT) == []


@pytest.mark.parametrize("rule", BROKEN)
def test_each_rule_is_found_broken_alone(qdq_net, rule):
    assert rules(qdq_net(**BROKEN[rule])) == {rule}


def test_unsigned_activations_are_not_symmetric(qdq_net):
    assert rules(qdq_net(zero=np.uint8(128))) == {"symmetric_activations"}


def test_scales_along_the_wrong_axis_are_found(qdq_net):
    (finding,) = lint(qdq_net(axis=1), TENSORRT)
    assert str(finding) == "conv: has weight scales along axis 1; output channels are axis 0"


def test_no_scale_for_each_channel_is_asked_for_where_none_can_be_written(qdq_net):
    model = qdq_net(scales=1)
    layer = next(node for node in model.graph.graph if node.op_type == "Conv")
    layer.op_type = "ConvTranspose"
    assert rules(model) == {"per_channel_weights"}
    layer.attributes["group"] = ir.AttrInt64("group", 2)
    assert rules(model) == set()


def test_a_finding_names_the_node_and_what_to_do(qdq_net):
    (finding,) = lint(qdq_net(bias=True), TENSORRT)
    assert str(finding) == "conv: has a quantized bias; it has to stay float"
    (finding,) = lint(qdq_net(pair_before_relu=True), TENSORRT)
    assert str(finding) == "relu: is cut off from Conv conv by a Q/DQ pair"


def test_rules_are_those_of_the_placement(qdq_net):
    model = qdq_net(zero=np.int8(3), bias=True, scales=1)
    relaxed = Placement(activations="asymmetric", weights="per_tensor", quantize_bias=True, quantize_outputs=True)
    assert rules(model, relaxed) == set()
