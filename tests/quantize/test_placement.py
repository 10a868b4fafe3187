"""Q/DQ stand where the tier's runtime fuses them: checked on the graph that onnxruntime's optimizer leaves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from edgeopt.errors import StageFailed, UsageError
from edgeopt.model import Model
from edgeopt.model.runtime import open_session, run
from edgeopt.model.shapes import infer_shapes
from edgeopt.quantize.eligible import find_excluded
from edgeopt.quantize.insert import insert
from edgeopt.quantize.observe import observe
from edgeopt.quantize.placement import plan
from edgeopt.quantize.plan import Plan
from edgeopt.quantize.ranges import Range, make_grid
from edgeopt.quantize.verify import fused_operators
from edgeopt.tiers import Tier, load_tier

Images = Callable[..., np.ndarray]
NewNet = Callable[..., Any]
INTEGER_TIERS = ["any", "mcu"]


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def quantize(model: Model, tier: Tier, x: np.ndarray, exclude: Sequence[str] = ()) -> tuple[Model, Plan]:
    """Placement and insertion with minmax ranges, without simplification: the operators stay what they are."""
    model = infer_shapes(model, None)
    decided = plan(model, tier, find_excluded(list(model.graph.graph), tier, exclude))
    seen = observe(model, decided.observed, [x], counts=False).histograms
    symmetric, dtype = tier.placement.activations == "symmetric", tier.placement.activation_type
    grids = {}
    for group, tensors in decided.sources.items():
        chosen = Range(min(seen[t].low for t in tensors), max(seen[t].high for t in tensors))
        grids[group] = make_grid(chosen, symmetric=symmetric, dtype=dtype)
    return insert(model, decided, grids, tier.placement), decided


def operators(model: Model, tier: Tier) -> list[str]:
    return [operator for _, operator in fused_operators(model, tier.session)]


@pytest.mark.parametrize("tier", INTEGER_TIERS)
@pytest.mark.parametrize("network", ["resnet_model", "mobilenet_model"])
def test_every_node_fuses_to_an_integer_kernel(
    network: str, tier: str, request: pytest.FixtureRequest, make_images: Images
) -> None:
    quantized, _ = quantize(request.getfixturevalue(network), load_tier(tier), make_images(8))
    left = operators(quantized, load_tier(tier))
    integer = {"QLinearConv", "QLinearAdd", "QLinearGlobalAveragePool", "QGemm", "MaxPool", "Flatten"}
    at_the_rim = ["QuantizeLinear", "DequantizeLinear"] if tier == "mcu" else ["QuantizeLinear"]
    assert [name for name in left if name not in integer] == at_the_rim


# One operator between two convolutions: what it takes and gives must be integers.
BETWEEN: dict[str, Callable[[Any, str], tuple[str, int]]] = {
    "MaxPool": lambda n, x: (n.add("MaxPool", x, kernel_shape=[2, 2]), 8),
    "AveragePool": lambda n, x: (n.add("AveragePool", x, kernel_shape=[2, 2]), 8),
    "Transpose": lambda n, x: (n.add("Transpose", x, perm=[0, 1, 3, 2]), 8),
    "Reshape": lambda n, x: (n.add("Reshape", x, n.constant(ints(0, 8, 8, 32))), 8),
    "Resize": lambda n, x: (
        n.add("Resize", x, "", n.constant(np.array([1, 1, 2, 2], np.float32)), mode="nearest"),
        8,
    ),
    "Concat of two convolutions": lambda n, x: (n.add("Concat", x, n.conv(x, 8, 8), axis=1), 16),
    "Concat of Relus": lambda n, x: (n.add("Concat", n.add("Relu", x), n.add("Relu", n.conv("x", 3, 8)), axis=1), 16),
    "Concat of Relu and none": lambda n, x: (n.add("Concat", n.add("Relu", x), n.conv("x", 3, 8), axis=1), 16),
    "squeeze-excite": lambda n, x: (
        n.add("Mul", x, n.add("Sigmoid", n.conv(n.add("GlobalAveragePool", x), 8, 8, 1))),
        8,
    ),
    "Swish": lambda n, x: (n.add("Mul", x, n.add("Sigmoid", x)), 8),
    "Add of a constant": lambda n, x: (n.add("Add", x, n.bias(1)), 8),
    "MatMul": lambda n, x: (n.add("MatMul", x, n.weight(16, 16)), 8),
    "Clip on both sides": lambda n, x: (n.add("Clip", x, n.constant(np.float32(-1)), n.constant(np.float32(1))), 8),
    "Relu6": lambda n, x: (n.relu6(x), 8),
}


@pytest.mark.parametrize("tier", INTEGER_TIERS)
@pytest.mark.parametrize("operator", BETWEEN)
def test_an_operator_between_convolutions_fuses(
    operator: str, tier: str, new_net: NewNet, make_images: Images, measure_sqnr: Callable[..., float]
) -> None:
    net = new_net()
    y, channels = BETWEEN[operator](net, net.conv("x", 3, 8))
    model = net.model(net.conv(y, channels, 4, 1))
    x = make_images(8)
    quantized, _ = quantize(model, load_tier(tier), x)
    left = operators(quantized, load_tier(tier))
    assert (left.count("QuantizeLinear"), left.count("DequantizeLinear")) == (1, 1)
    assert not {"Conv", "Add", "Mul", "MatMul", "AveragePool"} & set(left)
    entries = load_tier(tier).session
    expected, found = run(open_session(model), x)[0], run(open_session(quantized, entries=entries), x)[0]
    assert measure_sqnr(expected, found) > 25


def test_residual_inputs_have_their_own_scales(resnet_model: Model) -> None:
    decided = plan(infer_shapes(resnet_model, None), load_tier("mcu"))
    adds = [node for node in resnet_model.graph.graph if node.op_type == "Add"]
    group = {point.tensor: point.group for point in decided.points}
    assert all(group[node.inputs[0].name] != group[node.inputs[1].name] for node in adds)


def test_what_hands_values_on_shares_the_scale_and_is_not_observed(resnet_model: Model) -> None:
    decided = plan(infer_shapes(resnet_model, None), load_tier("any"))
    pool = next(node for node in resnet_model.graph.graph if node.op_type == "MaxPool")
    group = {point.tensor: point.group for point in decided.points}
    assert group[pool.inputs[0].name] == group[pool.outputs[0].name]
    assert pool.outputs[0].name not in decided.observed
    mean = next(node for node in resnet_model.graph.graph if node.op_type == "GlobalAveragePool")
    assert group[mean.inputs[0].name] != group[mean.outputs[0].name]


def test_removing_a_folded_clip_changes_nothing(mobilenet_model: Model, make_images: Images) -> None:
    quantized, decided = quantize(mobilenet_model, load_tier("any"), make_images(8))
    assert len(decided.folded) == 6
    assert "Clip" not in {node.op_type for node in quantized.graph.graph}
    # the same plan with the clips left in place, by asking for what a grid that does not saturate gets
    from edgeopt.quantize import insert as module

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_saturates", lambda clip, grid: False)
        kept, _ = quantize(mobilenet_model, load_tier("any"), make_images(8))
    assert "Clip" in {node.op_type for node in kept.graph.graph}
    x = make_images(4, seed=9) * 3  # beyond what was calibrated
    plain, clipped = (run(open_session(m, optimize=False), x)[0] for m in (quantized, kept))
    np.testing.assert_array_equal(plain, clipped)


class TestExplicit:
    """TensorRT's explicit quantization: what its documentation asks of a Q/DQ graph."""

    def test_pairs_stand_on_inputs_only(self, resnet_model: Model, make_images: Images) -> None:
        quantized, _ = quantize(resnet_model, load_tier("jetson"), make_images(4))
        readers = {
            u.op_type for n in quantized.graph.graph if n.op_type == "DequantizeLinear" for u, _ in n.outputs[0].uses()
        }
        assert readers == {"Conv", "Gemm", "Add"}
        relus = [node for node in quantized.graph.graph if node.op_type == "Relu"]
        assert {relu.inputs[0].producer().op_type for relu in relus} == {"Conv", "Add"}

    def test_zero_points_are_zero_and_biases_float(self, resnet_model: Model, make_images: Images) -> None:
        quantized, _ = quantize(resnet_model, load_tier("jetson"), make_images(4))
        weights = quantized.weights()
        assert not any(array.any() for name, array in weights.items() if name.endswith("_zero_point"))
        assert np.dtype(np.int32) not in {array.dtype for array in weights.values()}

    def test_one_input_of_each_residual_add_is_left_to_fuse(self, resnet_model: Model, make_images: Images) -> None:
        quantized, _ = quantize(resnet_model, load_tier("jetson"), make_images(4))
        adds = [node for node in quantized.graph.graph if node.op_type == "Add"]
        assert [sorted(v.producer().op_type for v in add.inputs) for add in adds] == [["Conv", "DequantizeLinear"]] * 2

    def test_a_transformers_residual_stream_stays_float(self, new_net: NewNet, make_images: Images) -> None:
        net = new_net()
        stream = net.add("Transpose", "x", perm=[0, 2, 3, 1])
        model = net.model(net.add("Add", stream, net.add("MatMul", stream, net.weight(3, 3))))
        _, decided = quantize(model, load_tier("jetson"), make_images(4))
        assert set(decided.integer.values()) == {"MatMul"}


class TestExclude:
    def test_a_name_or_an_expression_keeps_nodes_in_float(self, resnet_model: Model, make_images: Images) -> None:
        quantized, decided = quantize(resnet_model, load_tier("any"), make_images(4), exclude=["conv_0", "gemm_.*"])
        assert {name for name, why in decided.floating.items() if why == "excluded"} == {"conv_0", "gemm_16"}
        assert operators(quantized, load_tier("any")).count("QLinearConv") == 5

    def test_what_matches_nothing_is_refused(self, resnet_model: Model) -> None:
        with pytest.raises(UsageError, match="no node of the simplified graph is called 'conv_99'"):
            find_excluded(list(resnet_model.graph.graph), load_tier("any"), ["conv_99"])

    def test_a_broken_expression_is_refused(self, resnet_model: Model) -> None:
        with pytest.raises(UsageError, match="not a regular expression"):
            find_excluded(list(resnet_model.graph.graph), load_tier("any"), ["conv_("])

    def test_an_integer_only_tier_refuses_it(self, resnet_model: Model) -> None:
        with pytest.raises(UsageError, match="mcu runs in integers only"):
            find_excluded(list(resnet_model.graph.graph), load_tier("mcu"), ["conv_0"])


class TestIntegerOnly:
    def test_an_operator_without_a_kernel_is_named(self, new_net: NewNet) -> None:
        net = new_net()
        model = net.model(net.conv(net.add("Erf", net.conv("x", 3, 4)), 4, 4))
        with pytest.raises(StageFailed, match=r"mcu: node 'erf_1' \(Erf\) cannot run in integers"):
            plan(infer_shapes(model, None), load_tier("mcu"))

    def test_it_may_stand_at_the_rim_where_the_tier_allows_it(self, new_net: NewNet) -> None:
        net = new_net()
        model = net.model(net.add("Erf", net.conv("x", 3, 4)))
        tier = load_tier("mcu").model_copy(update={"float_operators": ("Erf",)})
        assert plan(infer_shapes(model, None), tier).floating == {"erf_1": "no integer kernel"}

    def test_a_function_of_one_variable_stands_between_dq_and_q(self, new_net: NewNet, make_images: Images) -> None:
        net = new_net()
        model = net.model(net.conv(net.add("HardSwish", net.conv("x", 3, 4)), 4, 4))
        quantized, _ = quantize(model, load_tier("mcu"), make_images(4))
        swish = next(node for node in quantized.graph.graph if node.op_type == "HardSwish")
        assert swish.inputs[0].producer().op_type == "DequantizeLinear"
        assert [user.op_type for user, _ in swish.outputs[0].uses()] == ["QuantizeLinear"]
