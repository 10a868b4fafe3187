"""Criteria rank units; every member of the union is deterministic and normalised."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any, get_args

import numpy as np
import pytest

from edgeopt.model import Model
from edgeopt.prune import L1, L2, Criterion, Prune, Random, Target
from edgeopt.stage import Context

MEMBERS = get_args(get_args(Criterion)[0])


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


@pytest.mark.parametrize("member", MEMBERS)
def test_every_criterion_scores_each_unit_the_same_twice(
    member: type[Any], chain: Model, make: SimpleNamespace
) -> None:
    groups = make.plan_of(chain).groups
    first, second = (member().scores(chain, groups, Context(seed=3)) for _ in range(2))
    assert [len(scores) for scores in first] == [len(group) for group in groups]
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)
        assert one.mean() == pytest.approx(1)


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
