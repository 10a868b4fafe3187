"""Correction by least squares: exact where it can be, numpy's answer where not, undone where it does not help."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from arrays import data_of, split_of

from edgeopt.data import load_data
from edgeopt.data.spec import DataSpec
from edgeopt.errors import UsageError
from edgeopt.model import Model
from edgeopt.model.load import load_model
from edgeopt.model.profile import profile
from edgeopt.model.runtime import open_session, run
from edgeopt.prune.correct import LeastSquares, correct
from edgeopt.prune.correct.sweep import Sweep
from edgeopt.prune.criteria import L2
from edgeopt.prune.surgery import remove
from edgeopt.stage import Context


def context_of(x: np.ndarray) -> Context:
    return Context(data=data_of(x))


def images(count: int = 160, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, 3, 8, 8)).astype(np.float32)


def without_units(make: SimpleNamespace, model: Model, **leave: list[int]) -> tuple[Model, list[dict[str, Any]]]:
    """The model without these channels of the groups called so, and the record."""
    plan = make.plan_of(model)
    kept = plan.everything()
    for group in plan.groups:
        for unit in leave.get(group.name, []):
            kept[group.units[unit]] = False
    return remove(model, plan, kept)


def gap(model: Model, other: Model, x: np.ndarray) -> float:
    """Relative difference of the first outputs."""
    one, two = (run(open_session(each, optimize=False), x)[0].astype(np.float64) for each in (model, other))
    return float(np.sqrt(np.square(one - two).sum() / np.square(one).sum()))


def value_of(model: Model, name: str, x: np.ndarray) -> np.ndarray:
    shown = model.copy()
    shown.graph.graph.outputs.append(next(v for n in shown.graph.graph for v in n.outputs if v.name == name))
    return run(open_session(shown, optimize=False), x)[-1]


BODIES = {
    "bias": "b = Conv<pads=[1,1,1,1]>(a, c2, c2_bias)",
    "batch normalization": "d = Conv<pads=[1,1,1,1]>(a, c2) "
    "b = BatchNormalization(d, bn_2_scale, bn_2_bias, bn_2_mean, bn_2_var)",
    "strided": "b = Conv<pads=[1,1,1,1], strides=[2,2]>(a, c2, c2_bias)",
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_a_channel_that_is_a_linear_combination_of_others_leaves_no_trace(body: str, make: SimpleNamespace) -> None:
    kernel = np.random.default_rng(1).standard_normal((6, 3, 1, 1)).astype(np.float32)
    kernel[5] = 0.5 * kernel[0] - 2 * kernel[3]
    model = make.build(
        f"a = Conv(x, c1) {body} r = Relu(b) p = GlobalAveragePool(r) f = Flatten(p) y = Gemm<transB=1>(f, head)",
        {"c1": kernel, "c2": (4, 6, 3, 3), "c2_bias": 4, "bn_2": 4, "head": (5, 4)},
    )
    pruned, record = without_units(make, model, c1=[5])
    result = correct(model, pruned, record, context_of(images()), LeastSquares(samples=128))
    fresh = images(32, seed=9)
    assert gap(model, pruned, fresh) > 0.1
    assert gap(model, result.model, fresh) < 1e-3
    assert result.facts["output_error_after"] < 1e-5 < result.facts["output_error_before"]
    assert pruned.weights()["c2"].tolist() != result.model.weights()["c2"].tolist()
    assert {n: w.shape for n, w in pruned.weights().items()} == {n: w.shape for n, w in result.model.weights().items()}


def test_a_layer_gets_what_numpy_says(make: SimpleNamespace) -> None:
    """Enough rows and no dependence: the ridge vanishes, and weight and bias are those of plain least squares."""
    model = make.build(
        "a = Conv(x, c1) r = Relu(a) b = Conv(r, c2, c2_bias) q = Relu(b) p = GlobalAveragePool(q) f = Flatten(p) "
        "y = Gemm<transB=1>(f, head)",
        {"c1": (6, 3, 1, 1), "c2": (4, 6, 1, 1), "c2_bias": 4, "head": (5, 4)},
    )
    pruned, record = without_units(make, model, c1=[1, 4])
    x = images(320)
    context = context_of(x)
    result = correct(model, pruned, record, context, LeastSquares(samples=256, rows=10**6))
    used = context.data.train.sample(320, 0).take(np.arange(256)).read(np.arange(256)).x  # type: ignore[union-attr]
    rows = value_of(pruned, "r", used).transpose(0, 2, 3, 1).reshape(-1, 4).astype(np.float64)
    target = value_of(model, "b", used).transpose(0, 2, 3, 1).reshape(-1, 4).astype(np.float64)
    solution = np.linalg.lstsq(np.hstack([rows, np.ones((len(rows), 1))]), target, rcond=None)[0]
    found = result.model.weights()
    np.testing.assert_allclose(found["c2"][:, :, 0, 0], solution[:-1].T, atol=0.02 * np.abs(solution).max())
    np.testing.assert_allclose(found["c2_bias"], solution[-1], atol=0.02 * np.abs(solution).max())


def test_statistics_are_those_of_what_now_arrives(make: SimpleNamespace) -> None:
    """Behind a fitted layer, and of a BatchNormalization that stands alone."""
    model = make.build(
        f"""a = Conv(x, c1) r = Relu(a) c = Conv(r, c2) b = {make.bn("c", "bn_2")} q = Relu(b) m = MaxPool<
            kernel_shape=[2,2], strides=[2,2]>(q) n = {make.bn("m", "bn_3")} p = GlobalAveragePool(n) f = Flatten(p)
            y = Gemm<transB=1>(f, head)""",
        {"c1": (6, 3, 1, 1), "c2": (4, 6, 1, 1), "bn_2": 4, "bn_3": 4, "head": (5, 4)},
    )
    pruned, record = without_units(make, model, c1=[0, 1])
    context = context_of(images(320))
    result = correct(model, pruned, record, context, LeastSquares(samples=256, rows=10**6))
    used = context.data.train.sample(320, 0).take(np.arange(256)).read(np.arange(256)).x  # type: ignore[union-attr]
    for arriving, norm in (("c", "bn_2"), ("m", "bn_3")):
        seen = value_of(result.model, arriving, used)
        np.testing.assert_allclose(result.model.weights()[f"{norm}_mean"], seen.mean((0, 2, 3)), rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(result.model.weights()[f"{norm}_var"], seen.var((0, 2, 3)), rtol=1e-3)


def test_layers_that_cannot_be_fitted_are_named_and_the_rest_goes_on(make: SimpleNamespace) -> None:
    model = make.build(
        "a = Conv(x, c1) r = Relu(a) t = ConvTranspose(r, up) b = Conv(t, c2, c2_bias) q = Relu(b) "
        "p = GlobalAveragePool(q) f = Flatten(p) y = Gemm<transB=1>(f, head)",
        {"c1": (8, 3, 1, 1), "up": (8, 6, 2, 2), "c2": (4, 6, 1, 1), "c2_bias": 4, "head": (5, 4)},
    )
    pruned, record = without_units(make, model, c1=[0, 1])
    facts = correct(model, pruned, record, context_of(images()), LeastSquares(samples=128)).facts
    assert facts["layers_left"] == {"node2": "ConvTranspose is not covered"}
    assert facts["layers_changed"] == 2
    assert facts["output_error_after"] < facts["output_error_before"]


@pytest.mark.parametrize("groups", [8, 2])
def test_grouped_and_depthwise_convolutions_are_fitted_group_by_group(groups: int, make: SimpleNamespace) -> None:
    kernel = np.random.default_rng(1).standard_normal((6, 3, 1, 1)).astype(np.float32)
    kernel[5] = kernel[0] + kernel[1]
    model = make.build(
        f"a = Conv(x, c1) b = Conv(a, c2, c2_bias) g = Conv<group={groups}, pads=[1,1,1,1]>(b, c3, c3_bias) "
        "r = Relu(g) p = GlobalAveragePool(r) f = Flatten(p) y = Gemm<transB=1>(f, head)",
        {
            "c1": kernel,
            "c2": (8, 6, 1, 1),
            "c2_bias": 8,
            "c3": (8, 8 // groups, 3, 3),
            "c3_bias": 8,
            "head": (5, 8),
        },
    )
    pruned, record = without_units(make, model, c1=[5])
    result = correct(model, pruned, record, context_of(images()), LeastSquares(samples=128))
    assert gap(model, result.model, images(16, seed=4)) < 1e-3
    assert not any("covered" in reason for reason in result.facts["layers_left"].values())


def test_a_matrix_product_with_an_added_bias(make: SimpleNamespace) -> None:
    """As exporters write linear layers on sequences; the residual stream takes part."""
    first = np.random.default_rng(1).standard_normal((12, 8)).astype(np.float32)
    first[:, 7] = first[:, 0] - first[:, 2]
    model = make.build(
        "a = MatMul(x, w1) b = Add(a, b1) c = MatMul(b, w2) d = Add(c, b2) y = Add(d, x)",
        {"w1": first, "b1": 8, "w2": (8, 12), "b2": 12},
        "(float[N,10,12] x) => (float[N,10,12] y)",
    )
    pruned, record = without_units(make, model, w1=[7])
    x = np.random.default_rng(0).standard_normal((160, 10, 12)).astype(np.float32)
    result = correct(model, pruned, record, context_of(x), LeastSquares(samples=128))
    assert gap(model, pruned, x) > 0.05
    assert gap(model, result.model, x) < 1e-3


def test_a_model_of_a_fixed_batch(make: SimpleNamespace) -> None:
    kernel = np.random.default_rng(1).standard_normal((6, 3, 1, 1)).astype(np.float32)
    kernel[5] = kernel[0] + kernel[1]
    model = make.build(
        "a = Conv(x, c1) b = Conv(a, c2, c2_bias) p = GlobalAveragePool(b) f = Flatten(p) y = Gemm<transB=1>(f, head)",
        {"c1": kernel, "c2": (4, 6, 1, 1), "c2_bias": 4, "head": (5, 4)},
        "(float[1,3,8,8] x) => (float[1,5] y)",
    )
    pruned, record = without_units(make, model, c1=[5])
    result = correct(model, pruned, record, context_of(images(40)), LeastSquares(samples=32))
    assert gap(model, result.model, images(1, seed=3)) < 1e-3


def test_what_does_not_help_on_other_images_is_undone(make: SimpleNamespace) -> None:
    """Images that judge are of another kind than those fitted to: channel 0 is all there is, or nothing."""
    kernel = np.zeros((4, 3, 1, 1), np.float32)
    kernel[[0, 1, 2, 3], [0, 1, 2, 0]] = 1
    model = make.build(
        "a = Conv(x, c1) r = Relu(a) b = Conv(r, c2) p = GlobalAveragePool(b) f = Flatten(p) "
        "y = Gemm<transB=1>(f, head)",
        {"c1": kernel, "c2": np.eye(4, dtype=np.float32).reshape(4, 4, 1, 1), "head": np.eye(5, 4, dtype=np.float32)},
    )
    pruned, record = without_units(make, model, c1=[0])
    x = np.abs(images(100))
    x[:80, 1] = x[:80, 0]  # one stands in for the other in the fit
    x[80:, 0] = 0.0  # and there is nothing to stand in for
    result = Sweep(model, pruned, record, split_of(x), Context()).run(4096)
    assert result.model is pruned
    assert result.facts["layers_changed"] == 0


def test_nothing_narrowed_nothing_changed(make: SimpleNamespace) -> None:
    model = make.build(
        "a = Conv(x, c1) p = GlobalAveragePool(a) f = Flatten(p) y = Gemm<transB=1>(f, head)",
        {"c1": (6, 3, 1, 1), "head": (5, 6)},
    )
    result = correct(model, model.copy(), [], context_of(images(40)), LeastSquares(samples=32))
    assert result.facts["layers_changed"] == 0
    assert result.facts["output_error_before"] == 0.0


def test_images_are_asked_for_by_name(make: SimpleNamespace) -> None:
    model = make.build("a = Conv(x, c1) p = GlobalAveragePool(a) y = Flatten(p)", {"c1": (5, 3, 1, 1)})
    with pytest.raises(UsageError, match="correction"):
        correct(model, model.copy(), [], Context(), LeastSquares())


def test_weights_before_a_batch_normalization_keep_their_length(make: SimpleNamespace) -> None:
    """Training goes on from there with steps of the size that suited the original."""
    model = make.build(
        f"""a = Conv(x, c1) r = Relu(a) c = Conv(r, c2) b = {make.bn("c", "bn_2")} q = Relu(b)
            p = GlobalAveragePool(q) f = Flatten(p) y = Gemm<transB=1>(f, head)""",
        {"c1": (6, 3, 1, 1), "c2": (4, 6, 1, 1), "bn_2": 4, "head": (5, 4)},
    )
    pruned, record = without_units(make, model, c1=[0, 1])
    result = correct(model, pruned, record, context_of(images(320)), LeastSquares(samples=256))
    before, after = (each.weights()["c2"][:, :, 0, 0] for each in (pruned, result.model))
    assert not np.allclose(before, after, rtol=0.05)
    np.testing.assert_allclose(np.linalg.norm(before, axis=1), np.linalg.norm(after, axis=1), rtol=1e-5)
    assert gap(model, result.model, images(32, seed=9)) < 0.5 * gap(model, pruned, images(32, seed=9))


def test_a_layer_of_many_inputs_that_depend_on_one_another(make: SimpleNamespace) -> None:
    """Beyond 1,024 inputs matrices are in float32: 1,200 channels of rank 3 are the worst that it can meet."""
    model = make.build(
        "a = Conv(x, c1) b = Conv(a, c2, c2_bias) p = GlobalAveragePool(b) f = Flatten(p) y = Gemm<transB=1>(f, head)",
        {"c1": (1200, 3, 1, 1), "c2": (4, 1200, 1, 1), "c2_bias": 4, "head": (5, 4)},
    )
    pruned, record = without_units(make, model, c1=list(range(140)))
    result = correct(model, pruned, record, context_of(images()), LeastSquares(samples=128, rows=4096))
    fresh = images(32, seed=9)
    assert gap(model, result.model, fresh) < 0.05 * gap(model, pruned, fresh)


def test_wide_activations_are_looked_at_in_fewer_images(make: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make.build(
        "a = Conv(x, c1) b = Conv(a, c2, c2_bias) p = GlobalAveragePool(b) f = Flatten(p) y = Gemm<transB=1>(f, head)",
        {"c1": (6, 3, 1, 1), "c2": (4, 6, 1, 1), "c2_bias": 4, "head": (5, 4)},
    )
    pruned, record = without_units(make, model, c1=[5])
    peak = profile(model).peak_ram_bytes
    for budget, images_used in ((100 * peak, 100), (peak, 64)):
        monkeypatch.setattr("edgeopt.prune.batches.HELD_BYTES", budget)
        facts = correct(model, pruned, record, context_of(images()), LeastSquares(samples=120)).facts
        assert facts["samples"] == images_used
        assert facts["layers_changed"] >= 1


def test_a_trained_network_stays_usable_without_training(make: SimpleNamespace) -> None:
    """Half of every group of the digits teacher by L2: from about chance back to nearly all that it knew."""
    from pathlib import Path

    model = load_model(str(Path(__file__).parents[2] / "models/digits/teacher.onnx"))
    data = load_data(DataSpec(source="digits"), model=model)
    context = Context(data=data)
    plan = make.plan_of(model)
    kept = plan.everything()
    for group, score in zip(plan.groups, L2().scores(model, plan.groups, context), strict=True):
        kept[group.units[np.argsort(score)[: len(group) // 2]]] = False
    pruned, record = remove(model, plan, kept)
    first, second = (correct(model, pruned, record, context, LeastSquares()) for _ in range(2))
    test = data.test.read(np.arange(len(data.test)))
    plain, corrected = ((run(open_session(m), test.x)[0].argmax(1) == test.y).mean() for m in (pruned, first.model))
    assert plain < 0.5
    assert corrected > 0.95
    assert first.model.to_bytes() == second.model.to_bytes()
    assert isinstance(first.model.graph, ir.Model)
