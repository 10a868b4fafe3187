"""Which layer harms the model, told apart from those that do not."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest

from edgeopt.data import Split
from edgeopt.model import Model
from edgeopt.model.passes.edit import constant_of
from edgeopt.model.runtime import open_session, run
from edgeopt.quantize.alone import Frontier, crossing_bytes, roundings
from edgeopt.quantize.build import Builder, wanted_tensors
from edgeopt.quantize.calibrators import MinMax
from edgeopt.quantize.observe import observe
from edgeopt.quantize.prepare import prepare
from edgeopt.quantize.samples import Samples
from edgeopt.quantize.sensitivity import HIGHEST_DB, entrances, exclude_list, layers_sqnr_db, rank
from edgeopt.quantize.weights import MaxScale
from edgeopt.stage import Context
from edgeopt.tiers import load_tier


def decibels(reference: np.ndarray, found: np.ndarray) -> float:
    noise = np.square(reference.astype(np.float64) - found).sum()
    return float(10 * np.log10(np.square(reference.astype(np.float64)).sum() / noise))


@pytest.fixture
def look(unsimplified: None, make_context: Callable[..., Context]) -> Callable[..., tuple[Builder, Samples, Context]]:
    def look(model: Model, x: np.ndarray, tier: str = "any") -> tuple[Builder, Samples, Context]:
        context = make_context(x, tier=load_tier(tier))
        prepared = prepare(model, load_tier(tier), context)
        assert context.data is not None
        split: Split = context.data.calibration
        seen = observe(
            prepared, wanted_tensors(prepared, load_tier(tier)), (b.x for b in split.batches(8)), counts=True
        )
        builder = Builder(prepared, load_tier(tier), seen.histograms, MinMax(), MaxScale())
        return builder, Samples(split, tuple(info.name for info in prepared.inputs)), context

    return look


@pytest.mark.parametrize("net", ["resnet_model", "mobilenet_model"])
def test_alone_is_what_a_whole_run_with_that_layer_rounded_gives(
    net: str, request: pytest.FixtureRequest, look: Callable, make_images: Callable
) -> None:
    """Against the plain way: in a float copy of the whole graph, the weight and input of one layer rounded by hand."""
    x = make_images(12)
    builder, samples, context = look(request.getfixturevalue(net), x, "jetson")
    found = {layer.name: layer for layer in rank(builder, samples, context, count=12)}
    reference = run(open_session(builder.model), x)[0]
    checked = 0
    for rounding in roundings(builder.model, builder.build()):
        if rounding.layer is None or rounding.output is not None:  # what is made is rounded too: not done here
            continue
        checked += 1
        plain = builder.model.copy()
        node = next(node for node in plain.graph.graph if node.name == rounding.name)
        weight = constant_of(node.inputs[1])
        assert weight is not None
        shape = [-1] + [1] * (weight.ndim - 1)
        scale = np.abs(weight).reshape(len(weight), -1).max(axis=1).reshape(shape) / np.float32(127)
        value = node.inputs[1]
        assert value is not None
        value.const_value = ir.tensor((np.rint(weight / scale) * scale).astype(np.float32), name=value.name)
        # its input: everything up to the layer is float, so that rounding can be done outside of the graph
        graph = plain.graph.graph
        source = node.inputs[0]
        head = Model(builder.model.copy().graph)
        made = next(
            (v for n in head.graph.graph for v in n.outputs if v.name == source.name), head.graph.graph.inputs[0]
        )
        inputs = x
        if made.name != head.graph.graph.inputs[0].name:
            head.graph.graph.outputs[:] = [made]
            inputs = run(open_session(head), x)[0]
        grid = rounding.inputs[0]
        rounded = grid.dequantize(grid.quantize(inputs))
        fed = ir.Value(name="rounded", shape=source.shape, type=ir.TensorType(ir.DataType.FLOAT))
        graph.inputs.append(fed)
        node.replace_input_with(0, fed)
        got = run(open_session(plain), {"x": x, "rounded": rounded})[0]
        assert found[rounding.name].alone_db == pytest.approx(decibels(reference, got), abs=0.01)
    assert checked >= 6


def test_the_sum_of_the_layers_noise_foretells_the_whole(
    mobilenet_model: Model, look: Callable, make_images: Callable
) -> None:
    """On a tier that rounds inputs only, each error counts once: their sum is the whole model's, within 3 dB."""
    x = make_images(16)
    builder, samples, context = look(mobilenet_model, x, "jetson")
    ranked = rank(builder, samples, context, count=16)
    noise = sum(10 ** (-layer.alone_db / 10) for layer in ranked)
    whole = decibels(run(open_session(builder.model), x)[0], run(open_session(builder.build().model), x)[0])
    assert -10 * np.log10(noise) == pytest.approx(whole, abs=3)


def poisoned(new_net: Callable, at: int) -> Model:
    """Five layers; that at `at` has a huge weight on a channel that is always zero, so that the scale of all its
    weights is coarse: nothing in float, ruin in int8."""
    net = new_net()
    x = net.add("Relu", net.conv("x", 3, 16))
    for index in range(1, 4):
        w = net.weight(16, 16, 3, 3)
        if index == at:
            array = net.random.standard_normal((16, 16, 3, 3)).astype(np.float32) * 0.1
            array[:, 3] = 60.0
            w = net.constant(array)
        if index + 1 == at:
            array = net.random.standard_normal((16, 16, 3, 3)).astype(np.float32) * 0.1
            array[3] = 0.0
            w = net.constant(array)
        x = net.add("Relu", net.add("Conv", x, w, kernel_shape=[3, 3], pads=[1] * 4))
    return net.model(net.head(x, 16))


@pytest.mark.parametrize("tier", ["any", "jetson", "mcu"])
def test_a_poisoned_layer_comes_first_and_is_where_error_enters(
    tier: str, new_net: Callable, look: Callable, make_images: Callable
) -> None:
    builder, samples, context = look(poisoned(new_net, 2), make_images(16)[:, :, :, :], tier)
    ranked = rank(builder, samples, context, count=4)
    culprit = next(node.name for node in builder.model.graph.graph if _has_outlier(node))
    assert ranked[0].name == culprit
    assert ranked[0].alone_db < ranked[1].alone_db - 10
    assert entrances(ranked, 1)[0].name == culprit
    assert ranked[0].output_db < ranked[0].input_db - 10
    assert exclude_list(ranked, 1) == [culprit]


def _has_outlier(node: object) -> bool:
    weight = constant_of(node.inputs[1]) if len(node.inputs) > 1 else None  # type: ignore[attr-defined]
    return weight is not None and np.abs(weight).max() > 50


def test_every_integer_layer_is_there_once_with_its_share_of_the_weights(
    resnet_model: Model, look: Callable, make_images: Callable
) -> None:
    builder, samples, context = look(resnet_model, make_images(4))
    ranked = rank(builder, samples, context, count=4)
    plan = builder.build().plan
    moved = {"MaxPool", "Flatten", "Reshape"}
    wanted = {name for name, op in plan.integer.items() if name not in plan.folded and op not in moved}
    assert len(ranked) == len(wanted)
    assert {layer.name for layer in ranked} == wanted
    assert 0.9 < sum(layer.weight_share for layer in ranked) <= 1
    assert all(layer.weight_share == 0 for layer in ranked if layer.operator == "Add")


def test_noise_does_not_enter_where_the_input_is_as_bad(
    resnet_model: Model, look: Callable, make_images: Callable
) -> None:
    builder, samples, context = look(resnet_model, make_images(4))
    ranked = rank(builder, samples, context, count=4)
    first = next(layer for layer in ranked if layer.name == "conv_0")
    assert first.input_db == HIGHEST_DB  # it reads the images
    assert all(layer.input_db < 100 for layer in ranked if layer.name != "conv_0")


def test_stopped_at_once_it_still_ranks_by_the_layers_own_error(
    new_net: Callable, look: Callable, make_images: Callable
) -> None:
    builder, samples, context = look(poisoned(new_net, 2), make_images(8))
    asked = iter([False, True])
    ranked = rank(builder, samples, context, count=4, stop=lambda: next(asked))
    assert sum(layer.alone_db is not None for layer in ranked) == 1
    unmeasured = [layer.output_db for layer in ranked if layer.alone_db is None]
    assert unmeasured == sorted(unmeasured)


def test_a_model_of_batch_one(resnet_model: Model, look: Callable, make_images: Callable) -> None:
    builder, samples, context = look(resnet_model, make_images(5), "mcu")
    one = rank(builder, samples, context, count=5)
    dynamic = Builder(resnet_model, builder.tier, builder.observed, builder.calibrator, builder.weights)
    many = {layer.name: layer for layer in rank(dynamic, samples, context, count=5)}
    for layer in one:
        assert layer.alone_db == pytest.approx(many[layer.name].alone_db, abs=0.2)


def test_values_of_unknown_type_are_not_cut_at(resnet_model: Model, look: Callable, make_images: Callable) -> None:
    x = make_images(4)
    builder, samples, context = look(resnet_model, x)
    expected = {layer.name: layer.alone_db for layer in rank(builder, samples, context, count=4)}
    blind = builder.model.copy()
    for node in list(blind.graph.graph)[3:6]:
        node.outputs[0].type = None
    batches = list(samples.batches(4))
    frontier = Frontier(blind, batches)
    reference = frontier.outputs()[0]
    for rounding in roundings(builder.model, builder.build()):
        got = frontier.outputs_with(rounding)[0]
        assert decibels(reference, got) == pytest.approx(expected[rounding.name], abs=0.1)


def test_few_samples_are_held_where_one_takes_much_memory(
    resnet_model: Model, look: Callable, make_images: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    builder, samples, context = look(resnet_model, make_images(8))
    assert crossing_bytes(builder.model) == 16 * 16 * 16 * 4  # the first convolution's output
    monkeypatch.setattr("edgeopt.quantize.sensitivity.HELD_BYTES", 3 * crossing_bytes(builder.model))
    taken = []
    plain = Samples.take

    def take(self: Samples, count: int) -> Samples:
        taken.append(count)
        return plain(self, count)

    monkeypatch.setattr(Samples, "take", take)
    rank(builder, samples, context, count=8)
    assert taken == [3]


def test_what_is_excluded_is_not_ranked(resnet_model: Model, look: Callable, make_images: Callable) -> None:
    builder, samples, context = look(resnet_model, make_images(4))
    names = {layer.name for layer in rank(replace(builder, excluded=frozenset({"conv_0"})), samples, context, count=4)}
    assert "conv_0" not in names
    assert "conv_3" in names


def test_the_glance_at_every_layer_agrees_with_the_ranking_on_the_same_samples(
    resnet_model: Model, look: Callable, make_images: Callable
) -> None:
    builder, samples, context = look(resnet_model, make_images(4), "jetson")
    ranked = {layer.layer: layer.output_db for layer in rank(builder, samples, context, count=4)}
    glance = layers_sqnr_db(builder.model, builder.build(), samples)
    assert glance == pytest.approx(ranked, abs=0.01)
