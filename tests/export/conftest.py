"""Small networks, float and Q/DQ, written node by node."""

import numpy as np
import pytest
from onnx import helper, numpy_helper

from edgeopt.model import Model
from edgeopt.tiers import Tier

ZERO = np.int8(0)


@pytest.fixture
def build():
    def build(nodes, x, weights, y="y", opset=20):
        graph = helper.make_graph(
            nodes,
            "net",
            [helper.make_tensor_value_info("x", 1, x)],
            [helper.make_tensor_value_info(y, 1, None)],
            [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()],
            doc_string="what the exporter said",
        )
        proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
        proto.producer_name = "exporter"
        return Model.from_proto(proto).with_meta(labels=("a", "b"))

    return build


@pytest.fixture
def float_net(build):
    """Conv, BatchNormalization, Relu, mean, Gemm on [n, 3, 8, 8]."""
    random = np.random.default_rng(0)

    def normal(*shape):
        return random.normal(size=shape).astype(np.float32)

    nodes = [
        helper.make_node("Conv", ["x", "stem.weight"], ["c"], name="c", dilations=[1, 1], pads=[0, 0, 0, 0]),
        helper.make_node("BatchNormalization", ["c", "bn.weight", "bn.bias", "bn.mean", "bn.var"], ["b"], name="b"),
        helper.make_node("Relu", ["b"], ["r"], name="r"),
        helper.make_node("ReduceMean", ["r", "axes"], ["m"], name="m", keepdims=0),
        helper.make_node("Gemm", ["m", "head.weight", "head.bias"], ["y"], name="g", transB=1),
    ]
    weights = {
        "stem.weight": normal(8, 3, 3, 3),
        "bn.weight": normal(8),
        "bn.bias": normal(8),
        "bn.mean": normal(8),
        "bn.var": np.abs(normal(8)) + 0.5,
        "axes": np.array([2, 3]),
        "head.weight": normal(2, 8),
        "head.bias": normal(2),
    }
    return build(nodes, ["n", 3, 8, 8], weights)


@pytest.fixture
def qdq_net(build):
    """Q -> DQ -> Conv -> Relu -> Q -> DQ -> Softmax or output. Arguments break one rule each."""

    def make(*, zero=ZERO, axis=0, scales=4, bias=False, pair_before_relu=False, softmax=False, weight_zero=0):
        random = np.random.default_rng(0)
        weights = {
            "s": np.float32(0.05),
            "z": zero,
            "stem.weight": random.integers(-127, 127, (4, 4, 3, 3)).astype(np.int8),
            "ws": np.full(scales, 0.01, np.float32) if scales > 1 else np.float32(0.01),
            "wz": np.full(scales, weight_zero, np.int8) if scales > 1 else np.int8(weight_zero),
        }
        nodes = [
            helper.make_node("QuantizeLinear", ["x", "s", "z"], ["xq"], name="q_in"),
            helper.make_node("DequantizeLinear", ["xq", "s", "z"], ["xf"], name="dq_in"),
            helper.make_node("DequantizeLinear", ["stem.weight", "ws", "wz"], ["wf"], name="dq_w", axis=axis),
        ]
        inputs = ["xf", "wf"]
        if bias:
            weights |= {"stem.bias": np.arange(4, dtype=np.int32), "bs": np.full(4, 0.0005, np.float32)}
            nodes.append(helper.make_node("DequantizeLinear", ["stem.bias", "bs"], ["bf"], name="dq_b", axis=0))
            inputs.append("bf")
        nodes.append(helper.make_node("Conv", inputs, ["c"], name="conv"))
        last = "c"
        if pair_before_relu:
            nodes.append(helper.make_node("QuantizeLinear", ["c", "s", "z"], ["cq"], name="q_c"))
            nodes.append(helper.make_node("DequantizeLinear", ["cq", "s", "z"], ["cf"], name="dq_c"))
            last = "cf"
        nodes += [
            helper.make_node("Relu", [last], ["r"], name="relu"),
            helper.make_node("QuantizeLinear", ["r", "s", "z"], ["rq"], name="q_out"),
            helper.make_node("DequantizeLinear", ["rq", "s", "z"], ["d"], name="dq_out"),
        ]
        if softmax:
            nodes.append(helper.make_node("Softmax", ["d"], ["y"], name="softmax"))
        return build(nodes, ["n", 4, 6, 6], weights, y="y" if softmax else "d")

    return make


@pytest.fixture
def tier():
    def tier(**properties):
        return Tier(**({"name": "test", "description": "", "precisions": ("int8", "fp32")} | properties))

    return tier
