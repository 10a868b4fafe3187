"""Every limit of a tier is hard, and the message says by how much and what is to blame."""

import pytest
from onnx import helper

from edgeopt.errors import StageFailed
from edgeopt.export.check import check_tier, heaviest, objections
from edgeopt.model.profile import profile
from edgeopt.tiers import load_tier


def fail(model, tier, size=1000):
    with pytest.raises(StageFailed) as caught:
        check_tier(model, tier, size, profile(model))
    return str(caught.value)


def test_a_model_within_all_limits_passes(qdq_net, tier):
    model = qdq_net()
    check_tier(model, tier(max_bytes=1000, max_peak_ram_bytes=1000, integer_only=True), 1000, profile(model))


def test_a_file_over_the_limit_says_by_how_much_and_what_weighs(float_net, tier):
    message = fail(float_net, tier(max_bytes="1KB"), size=1234)
    assert "1,234 B, 234 B over the limit of 1 KB" in message
    assert "stem.weight 864 B, head.weight 64 B" in message


def test_the_heaviest_are_five_in_order(float_net):
    assert heaviest(float_net).split(", ")[0] == "stem.weight 864 B"
    assert len(heaviest(float_net).split(", ")) == 5


def test_activations_over_the_limit_name_the_layer(float_net, tier):
    message = fail(float_net, tier(max_peak_ram_bytes=1000))
    assert "activations take 2,304 B, 1,304 B over the limit of 1 KB, at bn" in message


def test_float_on_an_integer_tier_asks_for_a_quantize_stage(float_net, tier):
    message = fail(float_net, tier(name="mcu", precisions=("int8",), integer_only=True))
    assert message == "tier mcu: fp32 is not accepted (int8 is); add a quantize stage"


def test_operators_left_in_float_are_named(qdq_net, tier):
    assert objections(qdq_net(softmax=True), tier(integer_only=True)) == ["operators left in float: Softmax (softmax)"]
    assert objections(qdq_net(softmax=True), tier(integer_only=True, float_operators=("Softmax",))) == []
    assert objections(qdq_net(softmax=True), tier()) == []


def test_operators_without_a_kernel_are_named(qdq_net, tier):
    narrow = tier(integer_only=True, placement={"operators": ["Conv"]})
    assert objections(qdq_net(), narrow) == ["operators without an integer kernel: Relu (relu)"]


def test_the_ram_of_c_code_is_left_to_its_own_plan(qdq_net, tier):
    model = qdq_net()
    for c_code, count in ((True, 0), (False, 1)):
        asked = tier(integer_only=True, c_code=c_code, max_peak_ram_bytes=10)
        assert len(objections(model, asked, profile=profile(model))) == count


def test_a_second_dynamic_dim_is_named(build, tier):
    model = build([helper.make_node("Relu", ["x"], ["y"])], ["n", 3, "height", 8], {})
    assert objections(model, tier(dynamic_batch=False)) == ["input 'x' has a dynamic dim (height) besides the batch"]
    assert objections(model, tier()) == []


def test_several_objections_come_at_once(float_net, tier):
    message = fail(float_net, tier(precisions=("int8",), max_bytes=10, max_peak_ram_bytes=10))
    assert message.count(" over the limit of 10 B") == 2
    assert "fp32 is not accepted" in message


def test_the_tiers_that_ship_can_be_asked(float_net):
    assert objections(float_net, load_tier("any")) == []
    assert objections(float_net, load_tier("mcu")) == ["fp32 is not accepted (int8 is)"]
