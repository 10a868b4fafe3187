"""The models that ship are what the manifest says: byte for byte, and measured again."""

import hashlib
from pathlib import Path

import pytest
import yaml

from edgeopt.data import load_data
from edgeopt.data.spec import DataSpec
from edgeopt.gate import check, check_files
from edgeopt.measure import evaluate
from edgeopt.model.load import read_onnx
from edgeopt.model.runtime import open_session
from edgeopt.report import read_report

MODELS = Path(__file__).parents[1] / "models"
ENTRIES = yaml.safe_load((MODELS / "manifest.yaml").read_text())["models"]
LARGEST = 12_000_000


def test_every_model_file_is_in_the_manifest_and_small() -> None:
    assert {entry["path"] for entry in ENTRIES} == {str(p.relative_to(MODELS)) for p in MODELS.rglob("*.onnx")}
    assert sum(entry["size_bytes"] for entry in ENTRIES) < 40_000_000
    assert max(entry["size_bytes"] for entry in ENTRIES) < LARGEST


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry["path"])
def test_a_model_is_what_the_manifest_says(entry: dict) -> None:
    path = MODELS / entry["path"]
    content = path.read_bytes()
    assert hashlib.sha256(content).hexdigest() == entry["sha256"]
    assert len(content) == entry["size_bytes"]
    assert (MODELS.parent / entry["recipe"]).exists()
    if entry["data"] != "digits":
        return  # other data sets are not in the repository; their models are measured by benchmarks
    model = read_onnx(path)
    data = load_data(DataSpec(source="digits"), model=model)
    session = open_session(path, threads=1, entries={"session.qdqisint8allowed": "1"})
    accuracy = evaluate({"it": session}, data.test, reference="it")["it"].accuracy
    assert entry["samples"] == len(data.test)
    # integer kernels may differ by one level between processors: one image of the test set
    assert accuracy == pytest.approx(entry["accuracy"], abs=1.5 / len(data.test))


@pytest.mark.parametrize("path", sorted(MODELS.glob("*/report.json")), ids=lambda path: path.parent.name)
def test_the_report_beside_the_models_holds_its_gate(path: Path) -> None:
    report = read_report(path)
    verdicts = [*check(report, report.limits), *check_files(report, path.parent)]
    assert len(verdicts) >= 7
    assert [verdict.sentence for verdict in verdicts if not verdict.ok] == []
