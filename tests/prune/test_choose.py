"""The fewest removals that reach a target, in widths that kernels like."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest

from edgeopt.errors import StageFailed
from edgeopt.model import Model
from edgeopt.model.profile import profile
from edgeopt.prune import Prune, Target
from edgeopt.prune.cost import Cost
from edgeopt.prune.surgery import remove
from edgeopt.stage import Context


@pytest.fixture
def chain(make: SimpleNamespace) -> Model:
    model: Model = make.build(
        """a = Conv<pads=[1,1,1,1]>(x, c1, b1) ar = Relu(a) b = Conv<pads=[1,1,1,1]>(ar, c2) br = Relu(b)
           c = Conv(br, c3) p = GlobalAveragePool(c) f = Flatten(p) y = Gemm<transB=1>(f, head)""",
        {"c1": (32, 3, 3, 3), "b1": (32,), "c2": (48, 32, 3, 3), "c3": (4, 48, 1, 1), "head": (5, 4)},
    )
    return model


@pytest.mark.parametrize("text", ["params=-60%", "macs=-50%", "params=-30%,macs=-70%"])
@pytest.mark.parametrize("ranking", ["local", "global"])
def test_the_target_is_reached_and_not_by_much_more(chain: Model, text: str, ranking: str) -> None:
    stage = Prune.model_validate({"target": text, "ranking": ranking, "finetune": None})
    facts = stage.apply(chain, Context()).facts
    left = {name: facts[f"{name}_after"] / facts[f"{name}_before"] for name in ("params", "macs")}
    excess = [1 + change - left[name] for name, change in stage.target.wanted.items()]
    assert min(excess) >= 0
    assert min(excess) < 0.05


def test_costs_agree_with_the_profile_of_the_pruned_model(chain: Model, make: SimpleNamespace) -> None:
    plan = make.plan_of(chain)
    kept = make.half(plan)
    pruned, _ = remove(chain, plan, kept)
    before, after = profile(chain), profile(pruned)
    assert Cost(chain, plan).fractions(kept) == pytest.approx(
        {"params": after.params / before.params, "macs": after.macs / before.macs}
    )


@pytest.mark.parametrize("ranking", ["local", "global"])
def test_widths_are_multiples_and_narrow_layers_stay(chain: Model, ranking: str) -> None:
    stage = Prune.model_validate({"target": "params=-55%", "ranking": ranking, "finetune": None})
    weights = stage.apply(chain, Context(width_multiple=8)).model.weights()
    assert weights["c1"].shape[0] % 8 == 0
    assert weights["c2"].shape[0] % 8 == 0
    assert weights["c3"].shape[0] == 4
    assert weights["c2"].shape[0] < 48


def test_groups_of_equal_size_do_not_all_lose_a_multiple_for_one_percent(make: SimpleNamespace) -> None:
    """Twelve layers of 16 channels in multiples of 8 all step at one ratio; the target asks for a few of them."""
    body = " ".join(f"l{i + 1} = Conv(l{i}, c{i})" for i in range(12))
    weights = {f"c{i}": (16, 16, 1, 1) for i in range(1, 12)} | {"c0": (16, 3, 1, 1), "head": (5, 16)}
    model = make.build(
        f"l0 = Identity(x) {body} p = GlobalAveragePool(l12) f = Flatten(p) y = Gemm<transB=1>(f, head)", weights
    )
    facts = Prune(target=Target.model_validate("params=-20%"), round_to=8, finetune=None).apply(model, Context()).facts
    assert 0.7 < facts["params_after"] / facts["params_before"] <= 0.8


def test_at_least_one_multiple_is_left(chain: Model) -> None:
    with pytest.raises(StageFailed, match=r"params=-99% cannot be reached.*params=[\d,]+ \(-\d+\.\d+%\).*output"):
        Prune(target=Target.model_validate("params=-99%"), round_to=16, finetune=None).apply(chain, Context())
    weights = (
        Prune(target=Target.model_validate("params=-80%"), round_to=16, finetune=None)
        .apply(chain, Context())
        .model.weights()
    )
    assert weights["c1"].shape[0] >= 16


def test_neither_half_of_a_split_vanishes(make: SimpleNamespace) -> None:
    """All of one half scores lower than all of the other."""
    first = np.concatenate([np.full((8, 3, 1, 1), 1e-3), np.ones((8, 3, 1, 1))]).astype(np.float32)
    model = make.build(
        """a = Conv(x, c1) p, q = Split<axis=1, num_outputs=2>(a) s = Concat<axis=1>(q, p) b = Conv(s, c2)
           g = GlobalAveragePool(b) y = Flatten(g)""",
        {"c1": first, "c2": (5, 16, 1, 1)},
    )
    result = Prune(target=Target.model_validate("params=-60%"), finetune=None).apply(model, Context())
    kept = next(entry["kept"] for entry in json.loads(result.files["pruned.json"]) if entry["name"] == "c1")
    assert any(index < 8 for index in kept)
    assert any(index >= 8 for index in kept)


def test_absolute_amounts_are_reached_too(chain: Model) -> None:
    before = profile(chain)
    stage = Prune(target=Target.model_validate(f"params={before.params // 2},macs=1M"), finetune=None)
    facts = stage.apply(chain, Context()).facts
    assert 0.45 * before.params < facts["params_after"] <= before.params // 2
    assert facts["macs_after"] <= 1_000_000


def test_an_unreachable_target_is_named_with_its_own_digits(chain: Model) -> None:
    with pytest.raises(StageFailed, match=r"params=-99\.9% cannot be reached"):
        Prune(target=Target.model_validate("params=-99.9%"), finetune=None).apply(chain, Context())


def test_ram_is_brought_down_where_the_peak_is_and_nowhere_else(make: SimpleNamespace) -> None:
    """8x8x64 floats meet at the second layer; what follows at 4x4 does not matter."""
    model = make.build(
        """a = Conv<pads=[1,1,1,1]>(x, c1) ar = Relu(a) b = Conv<strides=[2,2]>(ar, c2) br = Relu(b)
           c = Conv(br, c3) p = GlobalAveragePool(c) f = Flatten(p) y = Gemm<transB=1>(f, head)""",
        {"c1": (64, 3, 3, 3), "c2": (16, 64, 1, 1), "c3": (8, 16, 1, 1), "head": (5, 8)},
    )
    result = Prune(target=Target.model_validate("ram=-50%"), finetune=None).apply(model, Context(width_multiple=4))
    assert 0.35 < profile(result.model).peak_ram_bytes / profile(model).peak_ram_bytes <= 0.5
    assert result.facts["ram_bytes_after"] == profile(result.model).peak_ram_bytes
    weights = result.model.weights()
    assert weights["c1"].shape[0] < 64
    assert (weights["c2"].shape[0], weights["c3"].shape[0]) == (16, 8)


def test_outside_of_a_run_the_size_is_that_of_the_models_own_file(chain: Model) -> None:
    limit = round(0.6 * chain.size_bytes)
    result = Prune(target=Target.model_validate(f"size={limit}"), round_to=4, finetune=None).apply(chain, Context())
    assert 0.9 * limit < result.model.size_bytes <= limit
