"""The stage: facts, refusals, fine-tuning with the unpruned model as teacher."""

from __future__ import annotations

import json
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from arrays import data_of

from edgeopt.data import Data
from edgeopt.errors import StageFailed, UsageError
from edgeopt.model import Model
from edgeopt.model.runtime import open_session, run
from edgeopt.prune import Prune, Target
from edgeopt.prune.trace import trace
from edgeopt.stage import Context
from edgeopt.train.settings import FineTune


@pytest.fixture
def network(make: SimpleNamespace) -> Model:
    model: Model = make.build(
        f"""a = Conv<pads=[1,1,1,1]>(x, c1) b = {make.bn("a", "bn_1")} r = Relu(b) c = Conv<pads=[1,1,1,1]>(r, c2)
            s = Add(r, c) p = GlobalAveragePool(s) f = Flatten(p) y = Gemm<transB=1>(f, head)""",
        {"c1": (16, 3, 3, 3), "bn_1": 16, "c2": (16, 16, 3, 3), "head": (5, 16)},
    )
    return model


@pytest.fixture
def data(network: Model) -> Data:
    """Random images, labelled by the network itself."""
    x = np.random.default_rng(0).standard_normal((512, 3, 8, 8)).astype(np.float32)
    return data_of(x, run(open_session(network), x)[0].argmax(1))


def test_facts_are_json_and_say_what_was_done(network: Model) -> None:
    result = Prune(target=Target(params="-50%"), finetune=None).apply(network, Context())
    facts = json.loads(json.dumps(result.facts))
    assert facts["params_after"] <= facts["params_before"] / 2
    assert facts["macs_after"] < facts["macs_before"]
    (group,) = facts["groups"]
    assert group["channels_before"] == 16
    assert group["channels_after"] == result.model.weights()["c1"].shape[0]
    assert facts["pinned"] == [{"reason": "is an output of the model", "weights": ["head"]}]
    for entry in json.loads(result.files["pruned.json"]):
        assert result.model.weights()[entry["name"]].shape[entry["axis"]] == len(entry["kept"])


def test_the_record_is_how_to_make_the_result_from_the_original(network: Model) -> None:
    result = Prune(target=Target(params="-50%"), finetune=None).apply(network, Context())
    weights = network.weights()
    for entry in json.loads(result.files["pruned.json"]):
        weights[entry["name"]] = weights[entry["name"]].take(entry["kept"], entry["axis"])
    for name, array in result.model.weights().items():
        np.testing.assert_array_equal(array, weights[name])


def test_the_same_stage_twice_gives_the_same_bytes(network: Model) -> None:
    stage = Prune(target=Target(macs="-40%"), finetune=None)
    first, second = (stage.apply(network, Context(seed=1)).model.fingerprint() for _ in range(2))
    assert first == second


def test_fine_tuning_brings_the_answers_back_to_the_unpruned_ones(network: Model, data: Data) -> None:
    target = Target(params="-40%")  # no correction: it keeps what made-up statistics compute, too large to train
    plain = Prune(target=target, correction=None, finetune=None).apply(network, Context(data=data)).model
    training = FineTune(epochs=3, batch_size=64, lr=0.01)
    tuned = Prune(target=target, correction=None, finetune=training).apply(network, Context(data=data))
    x = data.test.raw(np.arange(512))
    wanted = answers(network, x)
    assert divergence(wanted, answers(tuned.model, x)) < divergence(wanted, answers(plain, x)) / 2
    assert len(tuned.facts["history"]) == 3
    assert {k: v.shape for k, v in tuned.model.weights().items()} == {k: v.shape for k, v in plain.weights().items()}


def answers(model: Model, x: np.ndarray) -> np.ndarray:
    """log-probabilities [n, classes] at the temperature of the soft targets."""
    logits = run(open_session(model), x)[0] / 4
    return logits - np.log(np.exp(logits).sum(1, keepdims=True))


def divergence(wanted: np.ndarray, found: np.ndarray) -> float:
    """Mean Kullback-Leibler divergence."""
    return float((np.exp(wanted) * (wanted - found)).sum(1).mean())


def test_fine_tuning_without_images_is_a_usage_error(network: Model) -> None:
    with pytest.raises(UsageError, match="needs images"):
        Prune(target=Target(params="-40%")).apply(network, Context())


def test_tracing_has_a_time_limit(network: Model) -> None:
    with pytest.raises(StageFailed, match="takes too long"):
        trace(network, time_limit=-1.0)


def test_validating_a_recipe_does_not_load_torch() -> None:
    code = """if True:
        import sys
        from edgeopt.prune import Prune
        Prune.model_validate({"target": "params=-60%"})
        print("torch" in sys.modules)"""
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "False"
