"""Each rule of explicit quantization, kept and broken."""

import numpy as np
import onnx_ir as ir
import pytest
from onnx import helper

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


def build_graph(build, nodes, weights=None, x=("n", 4, 6, 6), y="y"):
    """Nodes between `x` and `y`; a scale "s", another "t", a zero "z" and an int8 weight "w" of 4 to 4 channels are
    there."""
    random = np.random.default_rng(0)
    constants = {
        "s": np.float32(0.05),
        "t": np.float32(0.07),
        "z": np.int8(0),
        "w": random.integers(-127, 127, (4, 4, 1, 1)).astype(np.int8),
        "ws": np.full(4, 0.01, np.float32),
        "wz": np.zeros(4, np.int8),
        "f": random.standard_normal((4, 4, 1, 1)).astype(np.float32),
    }
    return build([parse(line) for line in nodes], list(x), constants | (weights or {}), y=y)


def parse(line):
    """`name: y = Op(a, b) key=1` as a node."""
    name, rest = line.split(": ", 1)
    output, call = rest.split(" = ")
    operator, arguments = call.split("(")
    inputs, attributes = arguments.split(")")
    settings = {key: int(number) for key, number in (pair.split("=") for pair in attributes.split())}
    return helper.make_node(operator, [i.strip() for i in inputs.split(",")], [output], name=name, **settings)


PAIR = ["q: xq = QuantizeLinear(x, s, z)", "dq: xf = DequantizeLinear(xq, s, z)"]
WEIGHT = ["dw: wf = DequantizeLinear(w, ws, wz) axis=0"]
CASES = {
    "a float weight": ([*PAIR, "conv: y = Conv(xf, f)"], "conv", "quantized_inputs"),
    "a float input": ([*WEIGHT, "conv: y = Conv(x, wf)"], "conv", "quantized_inputs"),
    "a maximum in between": ([*PAIR, *WEIGHT, "m: p = MaxPool(xf) ", "conv: y = Conv(p, wf)"], None, None),
    "no second half": (["q: xq = QuantizeLinear(x, s, z)", "c: y = Cast(xq) to=1"], "q", "paired"),
    "two scales in a pair": ([PAIR[0], "dq: y = DequantizeLinear(xq, t, z)"], "dq", "same_grid"),
    "scales of an activation": (
        ["q: xq = QuantizeLinear(x, ws, wz) axis=1", "dq: y = DequantizeLinear(xq, ws, wz) axis=1"],
        "q",
        "per_tensor_activations",
    ),
    "a computed scale": (
        ["r: d = ReduceMax(x) keepdims=0", "q: xq = QuantizeLinear(x, d, z)", "dq: y = DequantizeLinear(xq, d, z)"],
        "q",
        "constant_scales",
    ),
    "a pair before normalization": (
        [
            *PAIR,
            *WEIGHT,
            "conv: c = Conv(xf, wf)",
            "q2: cq = QuantizeLinear(c, t, z)",
            "dq2: cf = DequantizeLinear(cq, t, z)",
            "bn: y = BatchNormalization(cf, ws, ws, ws, ws)",
        ],
        "bn",
        "unbroken_fusion",
    ),
    "a float residual": ([*PAIR, *WEIGHT, "conv: c = Conv(xf, wf)", "add: y = Add(c, x)"], "add", "quantized_residual"),
    "an integer residual": ([*PAIR, *WEIGHT, "conv: c = Conv(xf, wf)", "add: y = Add(c, xf)"], None, None),
    "pairs on both sides": (
        [
            *PAIR,
            *WEIGHT,
            "conv: c = Conv(xf, wf)",
            "q2: cq = QuantizeLinear(c, t, z)",
            "dq2: cf = DequantizeLinear(cq, t, z)",
            "add: y = Add(cf, xf)",
        ],
        "add",
        "unbroken_add",
    ),
    "another scale behind a pool": (
        [*PAIR, "m: p = MaxPool(xf)", "q2: pq = QuantizeLinear(p, t, z)", "dq2: y = DequantizeLinear(pq, t, z)"],
        "m",
        "one_scale",
    ),
    "one scale around a pool": (
        [*PAIR, "m: p = MaxPool(xf)", "q2: pq = QuantizeLinear(p, s, z)", "dq2: y = DequantizeLinear(pq, s, z)"],
        None,
        None,
    ),
    "a concat of two scales": (
        [
            *PAIR,
            "q2: tq = QuantizeLinear(x, t, z)",
            "dq2: tf = DequantizeLinear(tq, t, z)",
            "cat: y = Concat(xf, tf) axis=1",
        ],
        "cat",
        "one_scale_concat",
    ),
    "a concat with floats": ([*PAIR, "cat: y = Concat(xf, x) axis=1"], "cat", "one_scale_concat"),
}


@pytest.mark.parametrize("case", CASES)
def test_each_rule_of_explicit_quantization_alone(build, case):
    nodes, culprit, rule = CASES[case]
    model = build_graph(build, nodes)
    for node in model.graph.graph:
        if node.op_type == "MaxPool":
            node.attributes["kernel_shape"] = ir.AttrInt64s("kernel_shape", [1, 1])
    found = lint(model, TENSORRT)
    assert {finding.rule for finding in found} == ({rule} if rule else set())
    assert culprit is None or culprit in {finding.node for finding in found}


@pytest.mark.parametrize("bad", [0.0, -0.1, np.inf, np.nan])
def test_a_scale_is_a_positive_number(build, bad):
    model = build_graph(build, [*PAIR[:1], "dq: y = DequantizeLinear(xq, s, z)"], {"s": np.float32(bad)})
    assert {finding.rule for finding in lint(model, load_tier("any").placement)} >= {"positive_scales"}


def test_a_weight_that_the_file_rounds_itself_counts_as_quantized(build):
    rounding = ["qw: wq = QuantizeLinear(f, ws, wz) axis=0", "dw: wf = DequantizeLinear(wq, ws, wz) axis=0"]
    assert lint(build_graph(build, [*PAIR, *rounding, "conv: y = Conv(xf, wf)"]), TENSORRT) == []


def test_a_float_file_breaks_no_rule(float_net):
    assert lint(float_net, TENSORRT) == []
