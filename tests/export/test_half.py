"""float16 inside, float32 outside, and the same answers within half precision."""

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from edgeopt.errors import StageFailed
from edgeopt.export.half import to_half
from edgeopt.export.overflow import refuse_overflow
from edgeopt.model.runtime import open_session, run

RNG = np.random.default_rng(0)


def weight(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def node(operator, inputs, outputs="y", **attributes):
    return helper.make_node(operator, inputs.split(" "), outputs.split(" "), **attributes)


TWO = numpy_helper.from_array(np.array([2.0], np.float32))
F32 = np.float32
CASES = {
    "conv": ([node("Conv", "x w b")], [2, 4, 5, 5], {"w": weight(3, 4, 3, 3), "b": weight(3)}),
    "batchnorm": (
        [node("BatchNormalization", "x s b m v")],
        [2, 4, 5, 5],
        {"s": weight(4), "b": weight(4), "m": weight(4), "v": np.abs(weight(4)) + 1},
    ),
    "resize": ([node("Resize", "x  sc", mode="linear")], [1, 4, 5, 5], {"sc": np.array([1, 1, 2, 2], F32)}),
    "clip": ([node("Clip", "x lo hi")], [2, 4], {"lo": F32(-0.5), "hi": F32(3.4e38)}),
    "cast_and_back": ([node("Cast", "x", "i", to=7), node("Cast", "i", "j", to=1), node("Add", "j x")], [2, 4], {}),
    "max": ([node("Max", "x k")], [2, 4], {"k": F32(0.1)}),
    "filled": (
        [node("Shape", "x", "s"), node("ConstantOfShape", "s", "o", value=TWO), node("Mul", "x o")],
        [2, 4],
        {},
    ),
    "no_half_schema": (
        [node("Range", "a b c", "r"), node("Mul", "x r")],
        [2, 4],
        {"a": F32(0), "b": F32(4), "c": F32(1)},
    ),
    "layer_norm": ([node("LayerNormalization", "x s b")], [2, 4], {"s": weight(4), "b": weight(4)}),
    "where": ([node("Greater", "x z", "g"), node("Where", "g x w")], [2, 4], {"z": F32(0), "w": F32(-3)}),
    "one_constant_for_both_types": (
        [node("Range", "k b c", "r"), node("Add", "x k", "h"), node("Mul", "h r")],
        [2, 4],
        {"k": F32(0), "b": F32(4), "c": F32(1)},
    ),
    "topk": (
        [node("TopK", "x k", "v i"), node("Cast", "i", "j", to=1), node("Add", "v j")],
        [2, 4],
        {"k": np.array([2])},
    ),
    "gelu": ([node("Gelu", "x")], [2, 4], {}),
}


@pytest.mark.parametrize("kind", CASES)
def test_the_answers_are_those_of_float_within_half_precision(build, kind):
    nodes, shape, weights = CASES[kind]
    model = build(nodes, shape, weights)
    half = to_half(model)
    onnx.checker.check_model(half.to_proto(), full_check=True)
    x = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    expected, found = run(open_session(model), x)[0], run(open_session(half), x)[0]
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=4e-3 * max(1, np.abs(expected).max()))
    assert half.meta == model.meta


def test_weights_are_half_the_bytes_and_keep_their_names(float_net):
    half = to_half(float_net).weights()
    assert half["stem.weight"].dtype == np.float16
    assert set(half) == set(float_net.weights())


def test_inputs_and_outputs_stay_float32(float_net):
    half = to_half(float_net)
    assert [(info.name, info.dtype) for info in (*half.inputs, *half.outputs)] == [("x", F32), ("y", F32)]


def test_a_weight_that_does_not_fit_is_named(build):
    x = {"x": np.zeros((2, 4), F32)}
    model = build([node("Mul", "x big")], [2, 4], {"big": np.array([1, 2, 70000, 3], F32)})
    with pytest.raises(StageFailed, match=r"big \(7e\+04\)"):
        refuse_overflow(model, x)


def test_an_activation_that_does_not_fit_is_named(build):
    """onnxruntime on a CPU would compute exp(12) = 162755 in a float16 graph as if it were float32."""
    model = build([node("Exp", "x", "h"), node("Log", "h")], [2], {})
    with pytest.raises(StageFailed, match=r"1 activations do not fit .*: h \(1.63e\+05\)"):
        refuse_overflow(model, {"x": np.array([1, 12], F32)})
    refuse_overflow(model, {"x": np.array([1, 11], F32)})


def test_large_scalars_are_bounds_and_pass(build):
    model = build([node("Clip", "x lo hi")], [2], {"lo": F32(-3e38), "hi": F32(3e38)})
    refuse_overflow(model, {"x": np.zeros(2, F32)})


def test_control_flow_is_refused_by_name(build):
    body = helper.make_graph([node("Relu", "x", "t")], "then", [], [helper.make_tensor_value_info("t", 1, None)])
    nodes = [helper.make_node("If", ["flag"], ["y"], name="branch", then_branch=body, else_branch=body)]
    with pytest.raises(StageFailed, match="'branch' is control flow"):
        to_half(build(nodes, [2, 4], {"flag": np.array(True)}))


def test_the_float_model_is_untouched(float_net):
    before = float_net.to_bytes()
    to_half(float_net)
    assert float_net.to_bytes() == before
