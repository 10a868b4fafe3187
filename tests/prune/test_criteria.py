"""Criteria rank units; every member of the union is deterministic and normalised, and computes its paper's formula."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any, get_args

import numpy as np
import pytest
import torch
from arrays import data_of
from heard import Heard
from torch.nn import functional as F

from edgeopt.errors import UsageError
from edgeopt.model import Model
from edgeopt.model.runtime import open_session, run
from edgeopt.prune import (
    L1,
    L2,
    BatchNormScale,
    Criterion,
    GeometricMedian,
    Prune,
    Random,
    Reconstruction,
    Target,
    Taylor,
)
from edgeopt.prune.criteria.elimination import DAMPING
from edgeopt.stage import Context

MEMBERS = get_args(get_args(Criterion)[0])
NEED_IMAGES = (Reconstruction, Taylor)


def images(count: int = 64, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((count, channels, 8, 8)).astype(np.float32)


@pytest.fixture
def chain(make: SimpleNamespace) -> Model:
    """Output channel i of c1 has weights of size i + 1, those of c2 the other way round, one large among zeros."""
    growing = np.ones((8, 3, 1, 1), np.float32) * np.arange(1, 9, dtype=np.float32).reshape(8, 1, 1, 1)
    model: Model = make.build(
        """a = Conv(x, c1) ar = Relu(a) b = Conv(ar, c2) s = Add(a, b) p = GlobalAveragePool(s) f = Flatten(p)
           y = Gemm<transB=1>(f, head)""",
        {"c1": growing, "c2": np.zeros((8, 8, 1, 1), np.float32), "head": (5, 8)},
    )
    return model


@pytest.fixture
def normed(make: SimpleNamespace) -> Model:
    """Conv, BatchNormalization, Relu, Conv with a bias, pool, head: one group has a BatchNormalization."""
    model: Model = make.build(
        f"""a = Conv<pads=[1,1,1,1]>(x, c1) b = {make.bn("a", "bn_1")} r = Relu(b)
            c = Conv<pads=[1,1,1,1]>(r, c2, c2_bias) q = Relu(c) p = GlobalAveragePool(q) f = Flatten(p)
            y = Gemm<transB=1>(f, head)""",
        {"c1": (6, 3, 3, 3), "bn_1": 6, "c2": (4, 6, 3, 3), "c2_bias": 4, "head": (5, 4)},
    )
    return model


@pytest.mark.parametrize("member", MEMBERS)
def test_every_criterion_scores_each_unit_the_same_twice(
    member: type[Any], normed: Model, make: SimpleNamespace
) -> None:
    groups = make.plan_of(normed).groups
    context = Context(seed=3, data=data_of(images()))
    first, second = (member().scores(normed, groups, context) for _ in range(2))
    assert [len(scores) for scores in first] == [len(group) for group in groups]
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)
        assert one.mean() == pytest.approx(1)
        assert one.std() > 0


@pytest.mark.parametrize("member", MEMBERS)
def test_a_criterion_that_needs_images_says_so_by_name(member: type[Any], normed: Model, make: SimpleNamespace) -> None:
    groups = make.plan_of(normed).groups
    if member not in NEED_IMAGES:
        member().scores(normed, groups, Context())
        return
    with pytest.raises(UsageError, match=f"criterion {member().kind} needs images"):
        member().scores(normed, groups, Context())


@pytest.mark.parametrize("member", [L1, L2])
def test_small_weights_leave_first(member: type[Any], chain: Model) -> None:
    stage = Prune(target=Target(params="-50%"), criterion=member(), finetune=None)
    record = stage.apply(chain, Context()).files["pruned.json"]
    kept = next(entry["kept"] for entry in json.loads(record) if entry["name"] == "c1")
    assert kept == list(range(8 - len(kept), 8))


def test_l2_minds_one_large_weight_more_than_l1(make: SimpleNamespace) -> None:
    weights = np.full((2, 3, 1, 1), 1.0, np.float32)
    weights[0, :, 0, 0] = [2.5, 0, 0]
    model = make.build(
        "a = Conv(x, c1) p = GlobalAveragePool(a) f = Flatten(p) y = Gemm<transB=1>(f, head)",
        {"c1": weights, "head": (5, 2)},
    )
    groups = make.plan_of(model).groups
    (l1,), (l2,) = (criterion.scores(model, groups, Context()) for criterion in (L1(), L2()))
    assert l1[0] < l1[1]
    assert l2[0] > l2[1]


def test_all_weights_that_produce_a_channel_count(chain: Model, make: SimpleNamespace) -> None:
    """c2 adds to the channels of c1: a large c2 row saves a channel that c1 alone would lose."""
    import onnx_ir as ir

    array = np.zeros((8, 8, 1, 1), np.float32)
    array[0] = 100
    other = chain.copy()
    other.graph.graph.initializers["c2"].const_value = ir.tensor(array, name="c2")
    (before,) = L2().scores(chain, make.plan_of(chain).groups, Context())
    (after,) = L2().scores(other, make.plan_of(other).groups, Context())
    assert before.argmin() == 0
    assert after.argmax() == 0


def test_random_follows_the_seed(chain: Model, make: SimpleNamespace) -> None:
    groups = make.plan_of(chain).groups
    draws = [Random().scores(chain, groups, Context(seed=seed))[0] for seed in (0, 1)]
    assert not np.array_equal(*draws)


def test_bn_scale_is_the_absolute_scale_and_falls_back_to_l2_aloud(normed: Model, make: SimpleNamespace) -> None:
    groups = make.plan_of(normed).groups
    heard = Heard()
    first, second = BatchNormScale().scores(normed, groups, Context(progress=heard))
    gamma = np.abs(normed.weights()["bn_1_scale"].astype(np.float64))
    np.testing.assert_allclose(first, gamma / gamma.mean())
    np.testing.assert_array_equal(second, L2().scores(normed, groups, Context())[1])
    assert len(heard.warnings) == 1
    assert "c2" in heard.warnings[0]
    assert "l2" in heard.warnings[0]


def test_geometric_median_sums_distances_between_filters(normed: Model, make: SimpleNamespace) -> None:
    groups = make.plan_of(normed).groups
    for group, found in zip(groups, GeometricMedian().scores(normed, groups, Context()), strict=True):
        filters = normed.weights()[group.name].astype(np.float64)
        wanted = [sum(np.linalg.norm(one - other) for other in filters) for one in filters]
        np.testing.assert_allclose(found, np.array(wanted) / np.mean(wanted), rtol=1e-9)


def test_geometric_median_removes_one_of_two_equal_filters_before_a_small_one(make: SimpleNamespace) -> None:
    filters = np.random.default_rng(0).standard_normal((6, 3, 1, 1)).astype(np.float32) * 3
    filters[1:4] = filters[1] + np.random.default_rng(1).standard_normal((3, 3, 1, 1)).astype(np.float32) * 0.01
    filters[5] = -filters[1] * 0.3
    model = make.build(
        "a = Conv(x, c1) p = GlobalAveragePool(a) f = Flatten(p) y = Gemm<transB=1>(f, head)",
        {"c1": filters, "head": (5, 6)},
    )
    groups = make.plan_of(model).groups
    assert L2().scores(model, groups, Context())[0].argmin() == 5
    assert GeometricMedian().scores(model, groups, Context())[0].argmin() in (1, 2, 3)


def _gates(model: Model, x: np.ndarray, labels: np.ndarray) -> list[np.ndarray]:
    """Squared derivatives of the loss by gates on the tensors that the weights read, mean over batches of 16."""
    w = {name: torch.from_numpy(array.copy()) for name, array in model.weights().items()}
    totals = [np.zeros(6), np.zeros(4)]
    for start in range(0, len(x), 16):
        gates = [torch.ones(1, 6, 1, 1, requires_grad=True), torch.ones(1, 4, 1, 1, requires_grad=True)]
        a = F.conv2d(torch.from_numpy(x[start : start + 16]), w["c1"], padding=1)
        b = F.batch_norm(a, w["bn_1_mean"], w["bn_1_var"], w["bn_1_scale"], w["bn_1_bias"])
        c = F.conv2d(F.relu(b) * gates[0], w["c2"], w["c2_bias"], padding=1)
        y = (F.relu(c) * gates[1]).mean((2, 3)) @ w["head"].T
        loss = F.cross_entropy(y, torch.from_numpy(labels[start : start + 16]))
        for total, gate in zip(totals, torch.autograd.grad(loss, gates), strict=True):
            total += gate.numpy().ravel().astype(np.float64) ** 2
    return totals


def test_taylor_is_the_squared_gradient_of_a_gate(normed: Model, make: SimpleNamespace) -> None:
    """Against gates multiplied in by hand, as Molchanov et al. define them."""
    x = images(48)
    labels = np.arange(48) % 5
    split = data_of(x, labels).train.sample(512, 0)
    groups = make.plan_of(normed).groups
    found = Taylor().scores(normed, groups, Context(data=data_of(x, labels)))
    wanted = _gates(normed, split.read(np.arange(48)).x, split.labels)  # type: ignore[arg-type]
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one, other / other.mean(), rtol=1e-3)


def test_taylor_asks_the_model_itself_without_labels(normed: Model, make: SimpleNamespace) -> None:
    """Without labels the scores are near those with labels that were drawn from the model's own distribution."""
    x = images(512)
    groups = make.plan_of(normed).groups
    logits = run(open_session(normed), x)[0].astype(np.float64)
    chances = np.exp(logits - logits.max(1, keepdims=True))
    chances /= chances.sum(1, keepdims=True)
    draws = (np.cumsum(chances, 1) < np.random.default_rng(5).random((512, 1))).sum(1)
    mine = Taylor().scores(normed, groups, Context(data=data_of(x)))
    theirs = Taylor().scores(normed, groups, Context(data=data_of(x, draws)))
    for one, other in zip(mine, theirs, strict=True):
        assert np.corrcoef(one, other)[0, 1] > 0.9


def test_taylor_takes_a_network_that_does_not_classify(make: SimpleNamespace) -> None:
    model = make.build(
        "a = Conv(x, c1) r = Relu(a) y = Conv(r, c2)",
        {"c1": (6, 3, 1, 1), "c2": (2, 6, 1, 1)},
        "(float[N,3,8,8] x) => (float[N,2,8,8] y)",
    )
    (scores,) = Taylor().scores(model, make.plan_of(model).groups, Context(data=data_of(images())))
    power = np.square(model.weights()["c2"]).sum((0, 2, 3)) * np.square(np.maximum(_entry(model, "a"), 0)).mean(
        (0, 2, 3)
    )
    assert np.corrcoef(np.sqrt(scores), np.sqrt(power))[0, 1] > 0.8


def _entry(model: Model, name: str, x: np.ndarray | None = None) -> np.ndarray:
    """A value inside the model."""
    shown = model.copy()
    shown.graph.graph.outputs.append(next(v for n in shown.graph.graph for v in n.outputs if v.name == name))
    return run(open_session(shown, optimize=False), images() if x is None else x)[-1]


def test_reconstruction_is_the_residual_of_least_squares(make: SimpleNamespace) -> None:
    """The cheapest unit costs what numpy's least squares leaves of the next layer's output without it."""
    model = make.build(
        "a = Conv(x, c1, c1_bias) r = Relu(a) b = Conv(r, c2) q = Relu(b) p = GlobalAveragePool(q) f = Flatten(p) "
        "y = Gemm<transB=1>(f, head)",
        {"c1": (6, 3, 1, 1), "c1_bias": 6, "c2": (4, 6, 1, 1), "head": (5, 4)},
    )
    x = images(32)
    groups = make.plan_of(model).groups
    group = next(group for group in groups if group.name == "c1")
    from edgeopt.prune.criteria.elimination import reading_losses

    split = data_of(x).train
    found = reading_losses(model, groups, split, 10**6, Context())[groups.index(group)]
    rows = _entry(model, "r", x).transpose(0, 2, 3, 1).reshape(-1, 6).astype(np.float64)
    target = _entry(model, "b", x).transpose(0, 2, 3, 1).reshape(-1, 4).astype(np.float64)
    rows, target = rows - rows.mean(0), target - target.mean(0)
    residuals = []
    for unit in range(6):
        rest = np.delete(rows, unit, 1)
        fitted = rest @ np.linalg.lstsq(rest, target, rcond=None)[0]
        residuals.append(np.square(target - fitted).sum() / np.square(target).sum())
    assert found is not None
    assert found.argmin() == int(np.argmin(residuals))
    assert found.min() == pytest.approx(min(residuals), rel=50 * DAMPING)


def test_reconstruction_keeps_one_of_two_channels_that_say_the_same(make: SimpleNamespace) -> None:
    kernel = np.random.default_rng(0).standard_normal((6, 3, 1, 1)).astype(np.float32)
    kernel[5] = 2 * kernel[4]
    model = make.build(
        "a = Conv(x, c1) r = Relu(a) b = Conv(r, c2) p = GlobalAveragePool(b) f = Flatten(p) "
        "y = Gemm<transB=1>(f, head)",
        {"c1": kernel, "c2": (4, 6, 1, 1), "head": (5, 4)},
    )
    groups = make.plan_of(model).groups
    scores = Reconstruction().scores(model, groups, Context(data=data_of(images())))[0]
    pair, others = scores[4:], scores[:4]
    assert pair.min() < 0.1 * others.min()
    assert pair.max() > others.min()


def test_reconstruction_names_groups_that_no_layer_reads(make: SimpleNamespace) -> None:
    """Queries and keys meet one another, not a weight."""
    model = make.build(
        "q = MatMul(x, wq) k = MatMul(x, wk) kt = Transpose<perm=[0,2,1]>(k) s = MatMul(q, kt) a = Softmax(s) "
        "v = MatMul(x, wv) o = MatMul(a, v) y = MatMul(o, wo)",
        {"wq": (12, 6), "wk": (12, 6), "wv": (12, 8), "wo": (8, 12)},
        "(float[N,10,12] x) => (float[N,10,12] y)",
    )
    groups = make.plan_of(model).groups
    x = np.random.default_rng(0).standard_normal((32, 10, 12)).astype(np.float32)
    heard = Heard()
    found = Reconstruction().scores(model, groups, Context(data=data_of(x), progress=heard))
    assert [len(scores) for scores in found] == [len(group) for group in groups]
    assert len(heard.warnings) == 1
    assert "wq" in heard.warnings[0]
    assert "wv" not in heard.warnings[0]
