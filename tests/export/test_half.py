"""float16 inside, float32 outside, and the same answers within half precision."""

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from edgeopt.export.half import to_half
from edgeopt.export.overflow import risky_by_magnitude, risky_by_rule
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


def evaluate(model, x):
    """In true float16, by the onnx package's own evaluator: onnxruntime computes in float32 on a CPU."""
    with np.errstate(all="ignore"):
        return ReferenceEvaluator(model.to_proto()).run(None, {"x": x})[0]


def risky(model, x):
    return risky_by_magnitude(model, {"x": np.asarray(x, F32)})


def test_a_node_that_writes_or_reads_what_does_not_fit_is_kept(build):
    """exp(12) = 162755."""
    model = build([node("Exp", "x", "h"), node("Log", "h", "l"), node("Neg", "l")], [2], {})
    assert risky(model, [1, 12]) == {"h": "writes 1.63e+05", "l": "reads 1.63e+05"}
    assert risky(model, [1, 8]) == {}
    x = np.array([1, 12], F32)
    assert not np.isfinite(evaluate(to_half(model), x)).all()
    np.testing.assert_allclose(evaluate(to_half(model, risky(model, x)), x), [-1, -12], rtol=1e-3)


def test_what_is_squared_inside_an_operator_counts_squared(build):
    """300 fits; the variance that LayerNormalization computes from it, 9e4, does not."""
    weights = {"s": np.ones(4, F32), "b": np.zeros(4, F32)}
    model = build([node("LayerNormalization", "x s b")], [1, 4], weights)
    assert risky(model, [[300, 0, 1, 2]]) == {"y": "squares 300"}
    assert risky(model, [[30, 0, 1, 2]]) == {}


def test_what_vanishes_is_kept(build):
    """1e-12 is zero in float16, and x / 0 is no number."""
    model = build([node("Add", "x eps", "a"), node("Div", "x a")], [2], {"eps": np.array(1e-12, F32)})
    x = np.array([0, 1], F32)
    assert risky(model, x) == {"a": "constant eps is at most 1e-12"}
    tiny = build([node("Mul", "x k", "h"), node("Mul", "h k2")], [2], {"k": F32(1e-6), "k2": F32(1e6)})
    assert set(risky(tiny, [1, 2])) == {"h", "y"}
    half = to_half(tiny, risky(tiny, [1, 2]))
    np.testing.assert_allclose(evaluate(half, np.array([1, 2], F32)), [1, 2], rtol=1e-3)


def test_a_weight_that_does_not_fit_keeps_its_node(build):
    model = build([node("Mul", "x big")], [2, 4], {"big": np.array([1, 2, 70000, 3], F32)})
    x = np.ones((2, 4), F32)
    assert risky(model, 0 * x) == {"y": "weight big holds 7e+04"}
    half = to_half(model, risky(model, x))
    assert half.weights()["big"].dtype == np.float32
    np.testing.assert_array_equal(evaluate(half, x), evaluate(model, x))


def test_large_scalars_are_bounds_and_pass(build):
    model = build([node("Clip", "x lo hi")], [2], {"lo": F32(-3e38), "hi": F32(3e38)})
    assert risky(model, np.zeros(2, F32)) == {}


def overflowing_net(build, *, by_hand=True):
    """x -> Gemm -> RMS normalization written out (or in one node) -> Gemm: the stream between is about 1,000."""
    weights = {"w1": weight(64, 64) * 125, "w2": weight(64, 10) / 8, "two": F32(2), "eps": F32(1e-6), "g": weight(64)}
    if by_hand:
        weights["last"] = np.array([-1])
        middle = [
            node("Pow", "h two", "h2"),
            node("ReduceMean", "h2 last", "m"),
            node("Add", "m eps", "v"),
            node("Sqrt", "v", "d"),
            node("Div", "h d", "n"),
            node("Mul", "n g", "k"),
        ]
    else:
        weights["b"] = weight(64)
        middle = [node("LayerNormalization", "h g b", "k")]
    return build([node("MatMul", "x w1", "h"), *middle, node("MatMul", "k w2")], ["n", 64], weights)


@pytest.mark.parametrize("by_hand", [True, False])
def test_a_net_whose_squares_overflow_stays_accurate(build, by_hand):
    model, x = overflowing_net(build, by_hand=by_hand), np.random.default_rng(3).normal(size=(8, 64)).astype(F32)
    expected = evaluate(model, x)
    if by_hand:
        assert np.abs(evaluate(to_half(model), x)).max() < 0.01 * np.abs(expected).max()  # divided by infinity
    half = to_half(model, risky_by_magnitude(model, {"x": x}))
    found = evaluate(half, x)
    sqnr = 10 * np.log10(np.square(expected).sum() / np.square(found - expected).sum())
    assert sqnr > 50
    assert half.weights()["w2"].dtype == np.float16
    by_rule = evaluate(to_half(model, risky_by_rule(model)), x)
    assert np.isfinite(by_rule).all()


def test_control_flow_stays_in_float32_with_what_its_bodies_read(build):
    """The body reads `h`, which is float16 outside, and the weight `k`, which a float16 node reads too."""
    body = helper.make_graph([node("Add", "h k", "t")], "then", [], [helper.make_tensor_value_info("t", 1, None)])
    other = helper.make_graph([node("Neg", "h", "e")], "else", [], [helper.make_tensor_value_info("e", 1, None)])
    nodes = [
        node("Mul", "x k", "h"),
        node("ReduceMax", "x", "top", keepdims=0),
        node("Greater", "top zero", "flag"),
        helper.make_node("If", ["flag"], ["c"], name="branch", then_branch=body, else_branch=other),
        node("Mul", "c k"),
    ]
    model = build(nodes, [2, 4], {"k": weight(4), "zero": F32(0)})
    half = to_half(model)
    onnx.checker.check_model(half.to_proto(), full_check=True)
    assert half.weights()["k"].dtype == np.float16
    for x in (weight(2, 4), -np.abs(weight(2, 4))):
        expected, found = run(open_session(model), x)[0], run(open_session(half), x)[0]
        np.testing.assert_allclose(found, expected, atol=4e-3 * np.abs(expected).max())


def test_the_float_model_is_untouched(float_net):
    before = float_net.to_bytes()
    to_half(float_net)
    assert float_net.to_bytes() == before
