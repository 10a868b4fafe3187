"""Targets as people write them, and widths as kernels like them."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
from pydantic import ValidationError

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


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("params=-60%", {"params": 0.6}),
        ("macs=-12.5%", {"macs": 0.125}),
        ("params=-60%, macs=-50%", {"params": 0.6, "macs": 0.5}),
    ],
)
def test_targets_are_read_from_text_and_survive_a_dump(text: str, wanted: dict[str, float]) -> None:
    stage = Prune.model_validate({"target": text})
    assert stage.target.wanted == pytest.approx(wanted)
    assert Prune.model_validate(stage.model_dump()) == stage
    assert Prune.model_validate_json(stage.model_dump_json()) == stage


@pytest.mark.parametrize("text", ["params", "params=60%", "params=-120%", "weights=-50%", {}, {"params": "half"}])
def test_what_is_no_target_is_refused(text: object) -> None:
    with pytest.raises(ValidationError):
        Target.model_validate(text)


@pytest.mark.parametrize("text", ["params=-60%", "macs=-50%", "params=-30%,macs=-70%"])
@pytest.mark.parametrize("ranking", ["local", "global"])
def test_the_target_is_reached_and_not_by_much_more(chain: Model, text: str, ranking: str) -> None:
    stage = Prune.model_validate({"target": text, "ranking": ranking, "finetune": None})
    facts = stage.apply(chain, Context()).facts
    left = {name: facts[f"{name}_after"] / facts[f"{name}_before"] for name in ("params", "macs")}
    excess = [1 - share - left[name] for name, share in stage.target.wanted.items()]
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
    facts = Prune(target=Target(params="-20%"), round_to=8, finetune=None).apply(model, Context()).facts
    assert 0.7 < facts["params_after"] / facts["params_before"] <= 0.8


def test_at_least_one_multiple_is_left(chain: Model) -> None:
    with pytest.raises(StageFailed, match=r"params=-99% cannot be reached.*-\d+\.\d%.*output"):
        Prune(target=Target(params="-99%"), round_to=16, finetune=None).apply(chain, Context())
    weights = Prune(target=Target(params="-80%"), round_to=16, finetune=None).apply(chain, Context()).model.weights()
    assert weights["c1"].shape[0] >= 16


def test_neither_half_of_a_split_vanishes(make: SimpleNamespace) -> None:
    """All of one half scores lower than all of the other."""
    first = np.concatenate([np.full((8, 3, 1, 1), 1e-3), np.ones((8, 3, 1, 1))]).astype(np.float32)
    model = make.build(
        """a = Conv(x, c1) p, q = Split<axis=1, num_outputs=2>(a) s = Concat<axis=1>(q, p) b = Conv(s, c2)
           g = GlobalAveragePool(b) y = Flatten(g)""",
        {"c1": first, "c2": (5, 16, 1, 1)},
    )
    result = Prune(target=Target(params="-60%"), finetune=None).apply(model, Context())
    kept = next(entry["kept"] for entry in json.loads(result.files["pruned.json"]) if entry["name"] == "c1")
    assert any(index < 8 for index in kept)
    assert any(index >= 8 for index in kept)
