"""Reconstruct beats rounding to nearest where inputs are correlated or noisy, and changes integers only."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from arrays import samples_of

from edgeopt.model import Model
from edgeopt.model.layerwise.moments import Moments
from edgeopt.model.layerwise.ridge import damped, ridge, solve_lower
from edgeopt.model.layerwise.rows import LayerForm, layer_form
from edgeopt.model.runtime import open_session, run
from edgeopt.quantize.build import Builder, Built, wanted_tensors
from edgeopt.quantize.calibrators import MinMax
from edgeopt.quantize.layers import integer_layers
from edgeopt.quantize.observe import observe
from edgeopt.quantize.reconstruct import Reconstruct, sweep
from edgeopt.quantize.reconstruct.layer import Fit, LayerFit
from edgeopt.quantize.reconstruct.solve import round_in_turn
from edgeopt.quantize.weights import BIAS_LIMIT, MaxScale
from edgeopt.stage import Context
from edgeopt.tiers import load_tier

Fixture = Callable[..., Any]


def build(model: Model, x: np.ndarray, tier: str = "any") -> Built:
    target = load_tier(tier)
    seen = observe(model, wanted_tensors(model, target), samples_of(x).batches(8), counts=False).histograms
    return Builder(model, target, seen, MinMax(), MaxScale()).build()


def outputs(model: Model, x: np.ndarray) -> np.ndarray:
    return run(open_session(model), x)[0]


def output_error(change: np.ndarray, metric: np.ndarray) -> float:
    return float(((change @ metric) * change).sum())


# Rounding and least squares


def test_rounding_in_turn_beats_nearest_where_inputs_are_correlated() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 500, 4)) @ rng.standard_normal((2, 4, 24))
    metric = damped(x.swapaxes(1, 2) @ x, 0.01)
    target = rng.uniform(-20, 20, (2, 8, 24))
    found = round_in_turn(target, metric)
    np.testing.assert_array_equal(found, found.round())
    assert output_error(found - target, metric) < 0.5 * output_error(target.round() - target, metric)


def test_rounding_in_turn_is_plain_rounding_where_inputs_are_independent() -> None:
    target = np.random.default_rng(0).uniform(-150, 150, (1, 8, 200))
    metric = np.diag(np.linspace(1, 2, 200))[None]
    np.testing.assert_array_equal(round_in_turn(target, metric), target.round().clip(-127, 127))


def test_what_a_limit_cuts_off_is_made_good_by_the_other_inputs() -> None:
    x = np.array([[[1.0, 0.9]]])
    target = np.array([[[140.0, 0.0]]])
    found = round_in_turn(target, damped(x.swapaxes(1, 2) @ x, 1e-4))
    assert found.tolist() == [[[127.0, 14.0]]]  # 13 of 1.0 are 14.4 of 0.9


def test_ridge_is_least_squares_without_strength_and_nothing_with_much() -> None:
    rng = np.random.default_rng(0)
    x, e = rng.standard_normal((400, 6)), rng.standard_normal((400, 3))
    xx, ex = (x.T @ x)[None], (e.T @ x)[None]
    expected = np.linalg.lstsq(x, e, rcond=None)[0].T
    np.testing.assert_allclose(ridge(xx, ex, 0.0)[0], expected, atol=1e-5)
    assert np.abs(ridge(xx, ex, 1e6)).max() < 1e-5


def test_a_triangular_system_of_many_blocks_is_solved() -> None:
    rng = np.random.default_rng(0)
    lower = np.tril(rng.standard_normal((2, 300, 300))) / 300 + np.eye(300)
    right = rng.standard_normal((2, 300, 7))
    np.testing.assert_allclose(lower @ solve_lower(lower, right), right, atol=1e-12)


def test_moments_know_the_error_of_any_change() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 50, 5)).astype(np.float32) + 1
    e = rng.standard_normal((2, 50, 3)).astype(np.float32) - 1
    whole, first, second = (Moments.empty(2, 3, 5) for _ in range(3))
    whole.add(x, e)
    first.add(x[:, :13], e[:, :13])
    second.add(x[:, 13:], e[:, 13:])
    first.merge(second)
    change, shift = rng.standard_normal((2, 3, 5)).astype(np.float32), rng.standard_normal((2, 3))
    columns = change.swapaxes(1, 2)
    direct = np.square(e - x @ columns - shift[:, None]).sum(1)
    for moments in (whole, first):
        np.testing.assert_allclose(moments.error(change, shift), direct, rtol=1e-4, atol=1e-4)
    centred = (e - e.mean(1, keepdims=True)) - (x - x.mean(1, keepdims=True)) @ columns
    found = whole.centred().error(change, np.zeros((2, 3)))
    np.testing.assert_allclose(found, np.square(centred).sum(1), rtol=1e-4, atol=1e-4)


# Layers as matrix products

CONVOLUTIONS: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    "plain": ((5, 6, 3, 3), {"pads": [1] * 4}),
    "uneven": ((5, 6, 3, 2), {"pads": [2, 0, 1, 1], "strides": [2, 1], "dilations": [1, 2]}),
    "depthwise": ((6, 1, 3, 3), {"group": 6, "strides": [2, 2], "pads": [1] * 4}),
    "grouped": ((4, 3, 1, 1), {"group": 2}),
    "same upper": ((5, 6, 4, 4), {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    "same lower": ((5, 6, 2, 4), {"auto_pad": "SAME_LOWER"}),
}


def assert_rows_agree(node: ir.Node, weight: np.ndarray, x: np.ndarray, y: np.ndarray) -> None:
    form = layer_form(ir.to_proto(node), weight)
    assert isinstance(form, LayerForm)
    np.testing.assert_array_equal(form.weight(form.matrices(weight), weight.shape), weight)
    places = form.places(y, 40, np.random.default_rng(0))
    found = form.input_rows(x, places, y.shape[2:]) @ form.matrices(weight).transpose(0, 2, 1)
    expected = form.output_rows(y, places)
    assert found.shape == expected.shape
    assert 0 < expected.size < y.size
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_a_convolution_is_its_rows_times_its_matrix(case: str, new_net: Fixture) -> None:
    shape, attributes = CONVOLUTIONS[case]
    net = new_net(channels=6, size=9)
    w = net.weight(*shape)
    model = net.model(net.add("Conv", "x", w, kernel_shape=shape[2:], **attributes))
    x = np.random.default_rng(1).standard_normal((4, 6, 9, 9)).astype(np.float32)
    node = next(node for node in model.graph.graph if node.op_type == "Conv")
    assert_rows_agree(node, model.weights()[w], x, outputs(model, x))


@pytest.mark.parametrize("operator", ["MatMul", "Gemm", "Gemm transB"])
def test_a_matrix_layer_is_its_rows_times_its_matrix(operator: str, new_net: Fixture) -> None:
    net = new_net(channels=6, size=9)
    trans_b = operator.endswith("transB")
    shape = (5, 486) if trans_b else (486, 5) if operator == "Gemm" else (9, 5)
    w, data = net.weight(*shape), net.add("Flatten", "x") if "Gemm" in operator else "x"
    settings = {"transB": 1} if trans_b else {}
    model = net.model(net.add(operator.split()[0], data, w, **settings))
    x = np.random.default_rng(1).standard_normal((64, 6, 9, 9)).astype(np.float32)
    node = next(node for node in model.graph.graph if node.op_type in ("Gemm", "MatMul"))
    assert_rows_agree(node, model.weights()[w], x.reshape(64, -1) if "Gemm" in operator else x, outputs(model, x))


# The whole


def refine(model: Model, built: Built, x: np.ndarray, **settings: Any) -> tuple[Model, dict[str, Any]]:
    result = Reconstruct(**settings).refine(model, built, samples_of(x), Context(seed=3))
    return result.model, result.facts


@pytest.mark.parametrize("network", ["resnet_model", "mobilenet_model"])
def test_outputs_come_nearer_to_the_float_network(
    network: str, request: pytest.FixtureRequest, make_images: Fixture, measure_sqnr: Fixture
) -> None:
    model: Model = request.getfixturevalue(network)
    built = build(model, make_images(64))
    refined, facts = refine(model, built, make_images(64))
    held_out = make_images(64, seed=9)
    expected = outputs(model, held_out)
    gain = measure_sqnr(expected, outputs(refined, held_out)) - measure_sqnr(expected, outputs(built.model, held_out))
    assert gain > 1.0
    assert facts["layers_left"] == {}


def test_only_integers_of_weights_and_biases_change(mobilenet_model: Model, make_images: Fixture) -> None:
    built = build(mobilenet_model, make_images(21))
    before = built.model.to_bytes()
    refined, _ = refine(mobilenet_model, built, make_images(21))  # 21: the last batch is ragged
    assert built.model.to_bytes() == before
    assert [(n.name, n.op_type) for n in refined.graph.graph] == [(n.name, n.op_type) for n in built.model.graph.graph]
    pairs = list(zip(integer_layers(built.model), integer_layers(refined), strict=True))
    assert any((old.weight != new.weight).any() for old, new in pairs)
    for old, new in pairs:
        assert (old.input_scale, old.input_zero_point) == (new.input_scale, new.input_zero_point)
        np.testing.assert_array_equal(old.weight_scale, new.weight_scale)
        assert np.abs(new.weight.astype(int)).max() <= 127
        assert new.bias is not None
        assert new.bias.dtype == np.int32
        assert np.abs(new.bias.astype(np.int64)).max() <= BIAS_LIMIT
    floats = [{n: a.tobytes() for n, a in m.weights().items() if a.dtype.kind == "f"} for m in (built.model, refined)]
    assert floats[0] == floats[1]


def test_the_same_seed_gives_the_same_file(mobilenet_model: Model, make_images: Fixture) -> None:
    built = build(mobilenet_model, make_images(16))
    first, second = (refine(mobilenet_model, built, make_images(16))[0].to_bytes() for _ in range(2))
    assert first == second


@pytest.mark.parametrize("tier", ["any", "mcu", "jetson"])
def test_every_tier(tier: str, resnet_model: Model, make_images: Fixture, measure_sqnr: Fixture) -> None:
    """mcu has a fixed batch of one, jetson keeps biases in float."""
    from edgeopt.model.shapes import infer_shapes

    model = infer_shapes(resnet_model, 1 if tier == "mcu" else None)
    built = build(model, make_images(24), tier)
    refined, facts = refine(model, built, make_images(24))
    assert facts["layers_changed"] >= 5
    images = make_images(24)
    batches = [images] if tier != "mcu" else np.split(images, 24)
    before, after = (
        np.mean([measure_sqnr(outputs(model, x), outputs(m, x)) for x in batches]) for m in (built.model, refined)
    )
    assert after > before + 0.5


def test_layers_that_it_cannot_do_are_named(new_net: Fixture, make_images: Fixture) -> None:
    net = new_net()
    shared, sizes = net.weight(8, 8, 3, 3), {"kernel_shape": [3, 3], "pads": [1] * 4}
    x = net.add("Conv", net.add("Conv", net.conv("x", 3, 8), shared, **sizes), shared, **sizes)
    x = net.add("ConvTranspose", x, net.weight(8, 6, 2, 2), kernel_shape=[2, 2], strides=[2, 2])
    model = net.model(x)
    built = build(model, make_images(16), "jetson")
    _, facts = refine(model, built, make_images(16))
    assert sorted(facts["layers_left"].values()) == [
        "ConvTranspose is not covered",
        *["it shares its weight or bias with another layer"] * 2,
    ]


def test_a_layer_without_a_bias(new_net: Fixture, make_images: Fixture) -> None:
    net = new_net()
    x = net.add("Conv", "x", net.weight(16, 3, 3, 3), kernel_shape=[3, 3])
    model = net.model(net.add("MatMul", net.add("Flatten", net.add("GlobalAveragePool", x)), net.weight(16, 5)))
    refined, facts = refine(model, build(model, make_images(32)), make_images(32))
    assert all(layer.bias is None for layer in integer_layers(refined))
    assert facts["layers_changed"] >= 1


def test_when_time_runs_out_the_rest_stays(mobilenet_model: Model, make_images: Fixture) -> None:
    built = build(mobilenet_model, make_images(16))
    refined, facts = refine(mobilenet_model, built, make_images(16), max_seconds=1e-9)
    assert set(facts["layers_left"].values()) == {"time ran out"}
    assert refined.to_bytes() == built.model.to_bytes()


def test_a_layer_whose_error_does_not_shrink_keeps_its_integers(
    mobilenet_model: Model, make_images: Fixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    solve = LayerFit.solve
    worse: list[str] = []

    def sometimes(self: LayerFit) -> Fit:
        fit = solve(self)
        if len(worse) < 2:
            worse.append(self.layer.name)
            return Fit(np.zeros_like(fit.weight), fit.bias, fit.error_before, fit.error_before * 2, fit.signal)
        return fit

    monkeypatch.setattr(LayerFit, "solve", sometimes)
    built = build(mobilenet_model, make_images(16))
    refined, facts = refine(mobilenet_model, built, make_images(16))
    assert list(facts["layers_left"]) == worse
    for old, new in zip(integer_layers(built.model)[:2], integer_layers(refined)[:2], strict=True):
        np.testing.assert_array_equal(old.weight, new.weight)


def beside(work: sweep.Sweep, name: str, pending: list[str]) -> tuple[str, str] | None:
    return sweep.added_to(work.real.node(name).output[0], work.real, work.real, work.rough, set(pending))


def test_a_branch_corrects_only_a_stream_that_is_done(resnet_model: Model, make_images: Fixture) -> None:
    """The last layer before an Add knows the other side's error once nothing will change that side any more."""
    built = build(resnet_model, make_images(8))
    work = sweep.Sweep(resnet_model, built.model, samples_of(make_images(8)), Context())
    names = [layer.name for layer in integer_layers(built.model) if layer.operator == "Conv"]
    correcting = [i for i, name in enumerate(names) if beside(work, name, names[i:]) is not None]
    # stem, block 1 (two layers and a plain shortcut), block 2 (two layers, then the shortcut's own)
    assert correcting == [2, 5]


def test_the_end_of_a_branch_aims_at_the_float_sum_less_what_is_there(
    resnet_model: Model, make_images: Fixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    targets: list[np.ndarray] = []
    monkeypatch.setattr(LayerFit, "count", lambda self, x, target, places, held_out: targets.append(target))
    built = build(resnet_model, make_images(8))
    work = sweep.Sweep(resnet_model, built.model, samples_of(make_images(8)), Context())
    layer = integer_layers(built.model)[2]
    fit = sweep.layer_fit(layer, work.float_nodes[layer.name])
    work._look(fit, 64, {layer.name})
    found = beside(work, layer.name, [layer.name])
    assert found is not None
    add = work.real.readers(work.real.node(layer.name).output[0])[0].output[0]
    wanted = [values[add] for values in work.real.run([add])]
    there = [values[found[1]] for values in work.rough.run([found[1]])]
    np.testing.assert_allclose(np.concatenate(targets) + np.concatenate(there), np.concatenate(wanted), atol=1e-5)


def test_it_needs_no_torch() -> None:
    code = "import edgeopt.quantize.reconstruct.sweep, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
