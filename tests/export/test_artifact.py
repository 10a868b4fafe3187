"""The file that ships: within its tier, loadable, and the same model."""

import hashlib

import numpy as np
import pytest

from edgeopt.errors import StageFailed, UsageError
from edgeopt.export import write_artifact
from edgeopt.export.stage import Export
from edgeopt.model.load import read_onnx
from edgeopt.model.runtime import open_session, run
from edgeopt.stage import Context
from edgeopt.tiers import load_tier


def test_the_file_is_what_the_record_says(qdq_net, tier, tmp_path):
    model = qdq_net()
    artifact = write_artifact(model, tier(strip=True, dynamic_batch=False), tmp_path / "out")
    content = artifact.path.read_bytes()
    assert artifact.path == tmp_path / "out" / "model.onnx"
    assert artifact.size_bytes == len(content)
    assert artifact.sha256 == hashlib.sha256(content).hexdigest()
    assert (artifact.tier, artifact.precision) == ("test", "int8")
    x = np.random.default_rng(0).normal(size=(1, 4, 6, 6)).astype(np.float32)
    np.testing.assert_array_equal(run(open_session(artifact.path), x)[0], run(open_session(model), x)[0])
    assert read_onnx(artifact.path).meta == model.meta


def test_the_same_model_gives_the_same_bytes(float_net, tier, tmp_path):
    first, second = (write_artifact(float_net, tier(strip=True), tmp_path / name) for name in "ab")
    assert first.sha256 == second.sha256


def test_the_limit_is_on_the_stripped_file(qdq_net, tier, tmp_path):
    model = qdq_net()
    limit = len(model.to_bytes()) - 1
    with pytest.raises(StageFailed, match="over the limit"):
        write_artifact(model, tier(max_bytes=limit), tmp_path / "full")
    assert write_artifact(model, tier(max_bytes=limit, strip=True), tmp_path / "bare").size_bytes < limit


def test_what_does_not_fit_leaves_the_old_file_and_names_weights(float_net, tier, tmp_path):
    old = tmp_path / "model.onnx"
    old.write_bytes(b"old")
    with pytest.raises(StageFailed, match=r"stem\.weight 864 B"):
        write_artifact(float_net, tier(max_bytes=100, strip=True), tmp_path)
    assert old.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [old]


@pytest.mark.parametrize("name", ["any", "gpu"])
def test_a_float_model_fits_the_tiers_that_take_floats(float_net, name, tmp_path):
    artifact = write_artifact(float_net, load_tier(name), tmp_path)
    assert artifact.precision == next(p for p in load_tier(name).precisions if p != "int8")


def test_the_mcu_tier_takes_an_integer_model(qdq_net, tmp_path):
    artifact = write_artifact(qdq_net(bias=True), load_tier("mcu"), tmp_path)
    assert read_onnx(artifact.path).inputs[0].shape == (1, 4, 6, 6)


def test_the_stage_says_what_it_made(qdq_net, float_net):
    result = Export().apply(qdq_net(bias=True), Context(tier=load_tier("jetson")))
    assert result.facts["precision"] == "int8"
    assert result.facts["warnings"] == ["conv: has a quantized bias; it has to stay float"]
    assert Export().apply(float_net, Context(tier=load_tier("gpu"))).facts["precision"] == "fp16"


def test_the_stage_needs_a_tier(float_net):
    with pytest.raises(UsageError, match="needs a tier"):
        Export().apply(float_net, Context())
