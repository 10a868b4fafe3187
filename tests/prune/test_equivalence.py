"""The check has to catch a wrong pruning, whatever made it wrong, and the stage has to go on without it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import onnx_ir as ir
import pytest

from edgeopt.model import Model
from edgeopt.prune import Prune, Target
from edgeopt.prune.equivalence import compare
from edgeopt.prune.rules import RULES
from edgeopt.prune.surgery import remove
from edgeopt.prune.trace import Tracer
from edgeopt.stage import Context


@pytest.fixture
def residual(make: SimpleNamespace) -> Model:
    """Two blocks: a concat of unequal branches, then a convolution chain."""
    model: Model = make.build(
        """a = Conv(x, c1) b = Conv(x, c2) c = Concat<axis=1>(a, b) d = Conv(c, c3) dr = Relu(d) e = Conv(dr, c4)
           p = GlobalAveragePool(e) f = Flatten(p) y = Gemm<transB=1>(f, head)""",
        {"c1": (8, 3, 1, 1), "c2": (8, 3, 1, 1), "c3": (8, 16, 1, 1), "c4": (8, 8, 1, 1), "head": (5, 8)},
    )
    return model


def test_wrong_channels_in_one_weight_are_seen_where_they_are_made(residual: Model, make: SimpleNamespace) -> None:
    """A consumer that loses other columns than its producer loses rows still runs and keeps its shape."""
    plan = make.plan_of(residual)
    kept = make.half(plan)
    pruned, record = remove(residual, plan, kept)
    assert compare(residual, pruned, plan, kept, seed=0).relative < 1e-5
    columns = next(entry["kept"] for entry in record if (entry["name"], entry["axis"]) == ("c4", 1))
    rows = next(entry["kept"] for entry in record if (entry["name"], entry["axis"]) == ("c4", 0))
    wrong = sorted({(index + 1) % 8 for index in columns})
    array = residual.weights()["c4"][:, wrong][rows]
    pruned.graph.graph.initializers["c4"].const_value = ir.tensor(np.ascontiguousarray(array), name="c4")
    difference = compare(residual, pruned, plan, kept, seed=0)
    assert difference.relative > 1e-2
    assert difference.value == "e"


def test_a_shape_with_the_traced_batch_in_it_is_seen(make: SimpleNamespace) -> None:
    model = make.build(
        "a = Conv(x, c1) p = GlobalAveragePool(a) f = Reshape(p, flat) y = Gemm<transB=1>(f, head)",
        {"c1": (8, 3, 1, 1), "flat": np.array([-1, 8]), "head": (5, 8)},
    )
    plan = make.plan_of(model)
    kept = make.half(plan)
    pruned, _ = remove(model, plan, kept)
    assert compare(model, pruned, plan, kept, seed=0).relative < 1e-5
    reshape = next(node for node in pruned.graph.graph if node.op_type == "Reshape")
    reshape.inputs[1].const_value = ir.tensor(np.array([2, 4]), name=reshape.inputs[1].name)
    difference = compare(model, pruned, plan, kept, seed=0)
    assert difference.relative == np.inf
    assert "Reshape" in difference.found


def test_a_result_that_is_not_finite_fails(make: SimpleNamespace) -> None:
    model = make.build(
        "a = Conv(x, c1) b = Log(a) c = Conv(b, c2) p = GlobalAveragePool(c) y = Flatten(p)",
        {"c1": (8, 3, 1, 1), "c2": (5, 8, 1, 1)},
    )
    plan = make.plan_of(model)
    kept = make.half(plan)
    pruned, _ = remove(model, plan, kept)
    assert not np.isfinite(compare(model, pruned, plan, kept, seed=0).relative)


def reversed_concat(node: ir.Node, tracer: Tracer) -> bool:
    """Wrong: the second operand's channels first."""
    second, first = (tracer.vector(value, 1) for value in node.inputs if value is not None)
    from edgeopt.prune.labels import Block

    tracer.write(node.outputs[0], [Block((1,), np.concatenate([first, second]))])
    return True


def uncoupled_relu(node: ir.Node, tracer: Tracer) -> bool:
    """Wrong: channels come out with new labels, so that producer and consumer are cut apart."""
    from edgeopt.prune.labels import Block

    assert node.inputs[0] is not None
    tracer.write(node.outputs[0], [Block((1,), tracer.ties.fresh(8))])
    return True


@pytest.mark.parametrize(
    ("operator", "broken", "spoiled"),
    [("Concat", reversed_concat, {"c1", "c2"}), ("Relu", uncoupled_relu, {"c3"})],
)
def test_a_broken_rule_is_refused_named_and_the_rest_goes_on(
    operator: str,
    broken: Callable[[ir.Node, Tracer], bool],
    spoiled: set[str],
    residual: Model,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(RULES, operator, broken)
    stage = Prune(target=Target(params="-40%"), finetune=None)
    result = stage.apply(residual, Context())
    refused = {name for entry in result.facts["pinned"] for name in entry["weights"]}
    assert spoiled & refused
    widths = {name: array.shape[0] for name, array in result.model.weights().items()}
    assert all(widths[name] == 8 for name in spoiled)
    assert widths["c4"] < 8
    assert result.facts["check"]["max_relative_difference"] < 1e-4


def test_layer_norm_is_compared_over_the_kept_channels(make: SimpleNamespace) -> None:
    """Zeroing alone would change mean and variance: the masked model has to restrict them."""
    model = make.build(
        """h = MatMul(x, l1) n = LayerNormalization<axis=-1>(h, scale, shift) y = MatMul(n, l2)""",
        {"l1": (6, 12), "scale": (12,), "shift": (12,), "l2": (12, 5)},
        "(float[N,4,6] x) => (float[N,4,5] y)",
    )
    plan = make.plan_of(model)
    kept = make.half(plan)
    pruned, _ = remove(model, plan, kept)
    assert pruned.weights()["scale"].shape == (6,)
    assert compare(model, pruned, plan, kept, seed=0).relative < 1e-5
    assert compare(model, model, replace(plan), plan.everything(), seed=0).relative == 0
