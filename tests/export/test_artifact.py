"""The file that ships: within its tier, loadable, and the same model."""

import numpy as np
import pytest

from edgeopt.errors import StageFailed, UsageError
from edgeopt.export import make_artifact
from edgeopt.export.precision import precision_of
from edgeopt.export.stage import Export
from edgeopt.model.load import read_onnx, save_model
from edgeopt.model.runtime import open_session, run
from edgeopt.stage import Context
from edgeopt.tiers import load_tier


def test_what_is_saved_computes_what_the_model_computes(qdq_net, tier, tmp_path):
    model = qdq_net()
    save_model(make_artifact(model, tier(strip=True, dynamic_batch=False)), tmp_path / "model.onnx")
    x = np.random.default_rng(0).normal(size=(1, 4, 6, 6)).astype(np.float32)
    np.testing.assert_array_equal(run(open_session(tmp_path / "model.onnx"), x)[0], run(open_session(model), x)[0])
    assert read_onnx(tmp_path / "model.onnx").meta == model.meta


def test_the_same_model_gives_the_same_bytes(float_net, tier):
    first, second = (make_artifact(float_net, tier(strip=True)).to_bytes() for _ in range(2))
    assert first == second


def test_the_limit_is_on_the_stripped_file(qdq_net, tier):
    model = qdq_net()
    limit = len(model.to_bytes()) - 1
    with pytest.raises(StageFailed, match="over the limit"):
        make_artifact(model, tier(max_bytes=limit))
    assert len(make_artifact(model, tier(max_bytes=limit, strip=True)).to_bytes()) < limit


def test_what_does_not_fit_names_the_weights_of_the_model_as_it_was_given(float_net, tier):
    with pytest.raises(StageFailed, match=r"stem\.weight 864 B"):
        make_artifact(float_net, tier(max_bytes=100, strip=True))


@pytest.mark.parametrize("name", ["any", "gpu"])
def test_a_float_model_fits_the_tiers_that_take_floats(float_net, name):
    artifact = make_artifact(float_net, load_tier(name))
    assert precision_of(artifact) == next(p for p in load_tier(name).precisions if p != "int8")


def test_the_mcu_tier_takes_an_integer_model(qdq_net):
    assert make_artifact(qdq_net(bias=True), load_tier("mcu")).inputs[0].shape == (1, 4, 6, 6)


def test_the_stage_says_what_it_made(qdq_net, float_net):
    result = Export().apply(qdq_net(bias=True), Context(tier=load_tier("jetson")))
    assert result.facts["precision"] == "int8"
    assert result.facts["warnings"] == ["conv: has a quantized bias; it has to stay float"]
    assert Export().apply(float_net, Context(tier=load_tier("gpu"))).facts["precision"] == "fp16"


def test_the_stage_needs_a_tier(float_net):
    with pytest.raises(UsageError, match="needs a tier"):
        Export().apply(float_net, Context())
