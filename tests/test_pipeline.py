"""Runs as users start them: what is left on disk, what is reused, what the report says."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from edgeopt.cli import app
from edgeopt.data import load_data
from edgeopt.data.spec import DataSpec
from edgeopt.model.load import load_model, read_onnx, save_model
from edgeopt.model.runtime import open_session, run

RECIPE = """\
model: {source: edgeopt:residual, settings: {channels: 1, size: 8, width: 4, blocks: [1]}}
data: digits
stages:
  - {kind: train, fit: {epochs: 6, batch_size: 64}}
  - {kind: prune, target: {params: -15%}, round_to: 1, finetune: {epochs: 1, batch_size: 64}}
  - {kind: quantize, calibrator: {kind: minmax}, samples: 64}
tiers: [mcu, jetson, gpu]
gate: {mcu: {size: 50KB, drop: 50pt}}
"""


def edgeopt(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a recipe that ran once: `recipe.yaml` and `out/`."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "recipe.yaml").write_text(RECIPE)
    edgeopt("run", folder / "recipe.yaml", "--out", folder / "out")
    return folder


@pytest.fixture(scope="module")
def report(finished: Path) -> dict:
    content: dict = json.loads((finished / "out" / "report.json").read_text())
    return content


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("net") / "net.onnx"
    settings = {"channels": 1, "size": 8, "width": 4, "blocks": [1]}
    save_model(load_model("edgeopt:residual", settings=settings), path)
    return path


def test_each_tier_has_its_artifact_as_the_tier_wants_it(finished: Path) -> None:
    out = finished / "out"
    mcu, jetson, gpu = (onnx.load(out / tier / "model.onnx") for tier in ("mcu", "jetson", "gpu"))
    assert mcu.graph.input[0].type.tensor_type.shape.dim[0].dim_value == 1
    assert gpu.graph.input[0].type.tensor_type.shape.dim[0].dim_param
    assert {onnx.TensorProto.FLOAT16} <= {tensor.data_type for tensor in gpu.graph.initializer}
    for proto in (mcu, jetson):
        assert "DequantizeLinear" in {node.op_type for node in proto.graph.node}
        onnx.checker.check_model(proto, full_check=True)


def test_the_report_knows_each_image_and_each_layer(finished: Path, report: dict) -> None:
    """Against the answers of the artifacts themselves."""
    data = load_data(DataSpec(source="digits"))
    assert data.test.labels is not None
    for row in report["tiers"]:
        bits = np.unpackbits(np.frombuffer(base64.b64decode(row["correct_bits"]), np.uint8))[: row["samples"]]
        assert bits.mean() == pytest.approx(row["accuracy"])
        base = np.unpackbits(np.frombuffer(base64.b64decode(row["baseline"]["correct_bits"]), np.uint8))[: len(bits)]
        assert 100 * (base.mean() - bits.mean()) == pytest.approx(row["drop_points"])
        assert row["changed"] == round((1 - row["agreement"]) * row["samples"])
        for change in row["changes"]:
            assert change["right"] == data.labels[data.test.labels[change["image"]]]
            assert (change["after"] == change["right"]) == bool(bits[change["image"]])
        timed = [layer for layer in row["layers"] if layer["time_ms"] is not None]
        assert sum(layer["time_ms"] for layer in timed) > 0
        assert max(layer["live_bytes"] for layer in row["layers"]) == row["peak_ram_bytes"]
        weighted = [layer for layer in row["layers"] if layer["op"] in ("Conv", "Gemm")]
        assert all((layer["sqnr_db"] is not None) == (row["precision"] == "int8") for layer in weighted)
    assert set(report["pictures"]) <= {str(own["image"]) for row in report["tiers"] for own in row["changes"]}
    assert len(report["pictures"]) == min(24, len({own["image"] for row in report["tiers"] for own in row["changes"]}))


def test_the_report_measures_what_lies_on_disk(finished: Path, report: dict) -> None:
    data = load_data(DataSpec(source="digits"))
    for row in report["tiers"]:
        path = finished / "out" / row["path"]
        assert path.stat().st_size == row["size_bytes"]
        session = open_session(path, entries={"session.qdqisint8allowed": "1"} if row["tier"] == "mcu" else {})
        singles = [batch for batch in data.test.batches(1) if batch.y is not None]
        right = [int(run(session, batch.x)[0].argmax() == batch.y[0]) for batch in singles]
        assert row["samples"] == len(right)
        assert row["accuracy"] == pytest.approx(np.mean(right), abs=0.003)
        assert row["accuracy_low"] < row["accuracy"] < row["accuracy_high"]
        base = row["baseline"]
        assert row["drop_points"] == pytest.approx(100 * (base["accuracy"] - row["accuracy"]))
        assert row["speedup"] == pytest.approx(base["latency_ms"] / row["latency_ms"])
        assert 0 < row["speedup_low"] <= row["speedup_high"]
        assert row["rule_breaches"] == (0 if row["precision"] == "int8" else None)


def test_the_baseline_is_the_network_that_was_trained_last(report: dict) -> None:
    assert {row["baseline"]["name"] for row in report["tiers"]} == {"train (float)"}
    stages = {stage["kind"]: stage for stage in report["stages"]}
    assert report["tiers"][0]["baseline"]["params"] == stages["train"]["params"] > stages["prune"]["params"]


def test_provenance_travels_in_the_artifact(finished: Path, report: dict) -> None:
    model = read_onnx(finished / "out" / "mcu" / "model.onnx")
    assert model.meta.provenance["recipe_hash"] == report["recipe_hash"]
    assert model.meta.provenance["data_hash"] == report["data"]["fingerprint"]
    assert model.meta.labels == tuple("0123456789")
    assert model.meta.preprocess is not None
    assert model.meta.preprocess.size == (8, 8)


def test_pruning_leaves_its_record(finished: Path) -> None:
    record = json.loads((finished / "out" / "pruned.json").read_text())
    assert record
    assert {"name", "axis", "kept"} <= set(record[0])


def test_the_same_command_again_reuses_everything_and_gives_the_same_files(finished: Path) -> None:
    out = finished / "out"
    before = {path: path.read_bytes() for path in out.glob("*/model.onnx")}
    edgeopt("run", finished / "recipe.yaml", "--out", out)
    again = json.loads((out / "report.json").read_text())
    assert all(stage["reused"] for stage in again["stages"])
    assert {path: path.read_bytes() for path in out.glob("*/model.onnx")} == before


def test_a_changed_stage_runs_again_and_those_before_it_do_not(finished: Path) -> None:
    other = finished / "other.yaml"
    other.write_text(RECIPE.replace("minmax", "mse"))
    edgeopt("run", other, "--out", finished / "out")
    stages = json.loads((finished / "out" / "report.json").read_text())["stages"]
    reused = {stage["title"]: stage["reused"] for stage in stages}
    assert reused["train"]
    assert reused["prune"]
    assert not reused["quantize for mcu"]
    assert reused["export for gpu"]


def test_another_seed_is_another_run(finished: Path) -> None:
    edgeopt("run", finished / "recipe.yaml", "--seed", 5, "--out", finished / "five")
    mine = (finished / "five" / "mcu" / "model.onnx").read_bytes()
    assert mine != (finished / "out" / "mcu" / "model.onnx").read_bytes()


def test_a_gate_that_fails_exits_1_after_the_report_is_written(finished: Path) -> None:
    strict = finished / "strict.yaml"
    strict.write_text(RECIPE.replace("50KB", "1KB"))
    result = edgeopt("run", strict, "--out", finished / "strict", code=1)
    assert "1 of 2 limits do not hold" in result.stderr
    assert (finished / "strict" / "report.html").exists()


def test_a_damaged_stage_is_made_again(finished: Path, tmp_path: Path) -> None:
    import shutil

    out = tmp_path / "out"
    shutil.copytree(finished / "out", out)
    model = next((out / "stages").glob("01-train-*")) / "model.onnx"
    model.write_bytes(model.read_bytes()[:100])
    edgeopt("run", finished / "recipe.yaml", "--out", out)
    stages = json.loads((out / "report.json").read_text())["stages"]
    assert [stage["reused"] for stage in stages[:3]] == [True, False, True]


def test_without_a_tier_there_is_one_model(tmp_path: Path, net: Path) -> None:
    edgeopt("quantize", net, "--data", "digits", "--samples", 32, "--out", tmp_path / "out")
    assert (tmp_path / "out" / "model.onnx").exists()
    assert {path.name for path in (tmp_path / "out").glob("report.*")} == {"report.json", "report.md", "report.html"}


def test_without_labels_fidelity_stands_in_for_accuracy(tmp_path: Path, net: Path) -> None:
    folder = tmp_path / "flat"
    folder.mkdir()
    for number in range(40):
        pixels = np.random.default_rng(number).integers(0, 256, (8, 8), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    edgeopt("quantize", net, "--data", folder, "--out", tmp_path / "out")
    row = json.loads((tmp_path / "out" / "report.json").read_text())["tiers"][0]
    assert row["accuracy"] is None
    assert row["drop_points"] is None
    assert 0.5 <= row["agreement"] <= 1
    assert row["sqnr_db"] > 10
    failed = edgeopt("gate", tmp_path / "out" / "report.json", "--max-drop", "2pt", code=1)
    assert "drop" in failed.output


def test_arrays_are_data_too(tmp_path: Path, net: Path) -> None:
    random = np.random.default_rng(0)
    np.savez(
        tmp_path / "x.npz",
        x=random.standard_normal((60, 1, 8, 8)).astype(np.float32),
        y=random.integers(0, 10, 60),
    )
    edgeopt("quantize", net, "--data", tmp_path / "x.npz", "--tier", "mcu", "--out", tmp_path / "out")
    row = json.loads((tmp_path / "out" / "report.json").read_text())["tiers"][0]
    assert row["tier"] == "mcu"
    assert row["accuracy"] is not None


def test_pruning_without_training_needs_no_images(tmp_path: Path, net: Path) -> None:
    edgeopt("prune", net, "--target", "params=-15%", "--epochs", 0, "--round-to", 1, "--out", tmp_path / "out")
    pruned = read_onnx(tmp_path / "out" / "model.onnx")
    assert sum(w.size for w in pruned.weights().values()) < sum(w.size for w in read_onnx(net).weights().values())
    refused = edgeopt("prune", net, "--target", "params=-15%", "--out", tmp_path / "no", code=2)
    assert "--data" in refused.stderr


def test_measure_sets_models_side_by_side(tmp_path: Path, finished: Path, net: Path) -> None:
    artifact = finished / "out" / "mcu" / "model.onnx"
    rows = json.loads(edgeopt("measure", net, artifact, "--data", "digits", "--json").stdout)
    assert [row["model"] for row in rows] == [str(net), str(artifact)]
    assert rows[0]["drop_points"] == 0
    assert rows[1]["size_bytes"] == artifact.stat().st_size
    assert rows[0]["speedup"] == 1
    assert "digits" not in edgeopt("measure", net).stdout


def test_inspect_says_what_a_tier_objects_to(net: Path, finished: Path) -> None:
    facts = json.loads(edgeopt("inspect", net, "--tier", "mcu", "--json").stdout)
    assert facts["tier"]["objections"]
    assert facts["macs"] == sum(layer["macs"] for layer in facts["layers"])
    clean = json.loads(edgeopt("inspect", finished / "out/mcu/model.onnx", "--tier", "mcu", "--json").stdout)
    assert clean["tier"]["objections"] == []
    assert "objections" not in edgeopt("inspect", net).stdout
