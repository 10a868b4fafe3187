"""Builder: one pass over the samples, any number of Q/DQ models; and what a refinement may change in one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from edgeopt.model import Model
from edgeopt.model.runtime import open_session, run
from edgeopt.model.shapes import infer_shapes
from edgeopt.quantize.build import Builder, wanted_tensors
from edgeopt.quantize.calibrators import MinMax
from edgeopt.quantize.layers import integer_layers, with_layers
from edgeopt.quantize.observe import observe
from edgeopt.quantize.weights import MaxScale
from edgeopt.tiers import load_tier

Images = Callable[..., np.ndarray]


@pytest.fixture
def builder(resnet_model: Model, make_images: Images) -> Callable[[str], Builder]:
    def make(name: str) -> Builder:
        tier = load_tier(name)
        model = infer_shapes(resnet_model, None)
        tensors = wanted_tensors(model, tier)
        seen = observe(model, tensors, [make_images(8)], counts=False).histograms
        return Builder(model, tier, seen, MinMax(), MaxScale())

    return make


def test_every_choice_of_float_nodes_builds_from_the_one_observation(builder: Any, make_images: Images) -> None:
    made = builder("any")
    x = make_images(4)
    (truth,) = run(open_session(made.model), x)
    errors = []
    names = made.candidates()
    for floating in ((), names[: len(names) // 2], names):
        (got,) = run(open_session(made.build(floating).model), x)
        errors.append(float(np.square(got - truth).mean()))
    assert errors[-1] == pytest.approx(0, abs=1e-10)
    assert errors[0] > errors[-1]


def test_a_node_kept_in_float_has_float_weights(builder: Any) -> None:
    made = builder("any")
    kept = next(name for name in made.candidates() if name.startswith("conv"))
    assert kept in {layer.name for layer in integer_layers(made.build().model)}
    assert kept not in {layer.name for layer in integer_layers(made.build([kept]).model)}


@pytest.mark.parametrize("tier", ["any", "mcu", "jetson"])
def test_layers_are_read_as_the_float_model_has_them(builder: Any, tier: str) -> None:
    made = builder(tier)
    float_weights = made.model.weights()
    nodes = {node.name: node for node in made.model.graph.graph}
    layers = integer_layers(made.build().model)
    assert len(layers) == sum(node.op_type in ("Conv", "Gemm") for node in nodes.values())
    for layer in layers:
        weight = float_weights[nodes[layer.name].inputs[1].name]
        shape = [-1 if axis == layer.axis else 1 for axis in range(weight.ndim)]
        scale = layer.weight_scale.reshape(shape)
        assert np.abs(layer.weight * scale - weight).max() <= scale.max() * 0.51
        bias = float_weights[nodes[layer.name].inputs[2].name]
        if made.tier.placement.quantize_bias:
            np.testing.assert_allclose(layer.bias * layer.bias_scale, bias, atol=layer.bias_scale.max())
        else:
            assert layer.bias_scale is None
            np.testing.assert_array_equal(layer.bias, bias)


@pytest.mark.parametrize("tier", ["any", "jetson"])
def test_other_integers_change_that_layer_and_nothing_else(builder: Any, tier: str) -> None:
    model = builder(tier).build().model
    before = {layer.name: layer for layer in integer_layers(model)}
    name = next(iter(before))
    weight, bias = -before[name].weight, before[name].bias + before[name].bias.dtype.type(3)
    after = {layer.name: layer for layer in integer_layers(with_layers(model, {name: (weight, bias)}))}
    np.testing.assert_array_equal(after[name].weight, weight)
    np.testing.assert_array_equal(after[name].bias, bias)
    for other in before.keys() - {name}:
        np.testing.assert_array_equal(after[other].weight, before[other].weight)
    np.testing.assert_array_equal(integer_layers(model)[0].weight, before[name].weight)


def test_a_shared_constant_is_changed_for_one_reader_only(new_net: Any, make_images: Images) -> None:
    net = new_net()
    shared = net.weight(3, 3, 1, 1)
    x = net.add("Conv", net.add("Conv", "x", shared, kernel_shape=[1, 1]), shared, kernel_shape=[1, 1])
    model = infer_shapes(net.model(x), None)
    tier = load_tier("any")
    seen = observe(model, wanted_tensors(model, tier), [make_images(4)], counts=False).histograms
    quantized = Builder(model, tier, seen, MinMax(), MaxScale()).build().model
    first, second = integer_layers(quantized)
    changed = with_layers(quantized, {second.name: (np.zeros_like(second.weight), None)})
    after_first, after_second = integer_layers(changed)
    np.testing.assert_array_equal(after_first.weight, first.weight)
    assert not after_second.weight.any()
    (got,) = run(open_session(changed), make_images(2))
    assert not got.any()


def test_integers_of_another_shape_are_refused(builder: Any) -> None:
    model = builder("any").build().model
    layer = integer_layers(model)[0]
    with pytest.raises(ValueError, match="cannot stand for int8"):
        with_layers(model, {layer.name: (layer.weight[:1], None)})
