"""A detector goes the way of every network: it learns boxes, teaches, is pruned, quantized, measured and gated."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from heard import Heard
from PIL import Image

from edgeopt.data import Data, DataSpec, load_data
from edgeopt.distill import Distill
from edgeopt.errors import UsageError
from edgeopt.measure import Outcome, evaluate
from edgeopt.model import Model
from edgeopt.model.load import load_model, save_model
from edgeopt.model.reference import ModelRef
from edgeopt.model.runtime import open_session
from edgeopt.pipeline import run
from edgeopt.prune import Prune
from edgeopt.recipe import Recipe
from edgeopt.report import Report
from edgeopt.stage import Context
from edgeopt.train.stage import Train

FIT = {"epochs": 40, "batch_size": 32, "optimizer": {"kind": "adamw"}, "lr": 0.01, "precision": "fp32"}
SETTINGS = {"classes": 2, "channels": 1, "size": 32, "width": 8, "blocks": (1, 1, 1), "maps": 2, "lite": False}
PREPROCESS = {"size": (32, 32), "color": "gray", "mean": (0.5,), "std": (0.25,)}


def write(folder: Path, count: int, seed: int) -> None:
    """Squares of 8 to 20 pixels on gray noise, white or black: two classes."""
    rng = np.random.default_rng(seed)
    (folder / "images").mkdir(parents=True)
    boxes = []
    for at in range(count):
        pixels = rng.integers(90, 166, (32, 32), np.uint8)
        side, label = int(rng.integers(8, 21)), int(rng.integers(2))
        x, y = rng.integers(0, 33 - side, 2).tolist()
        pixels[y : y + side, x : x + side] = 255 * label
        Image.fromarray(pixels).save(folder / "images" / f"{at}.png")
        boxes.append({"id": at, "image_id": at, "category_id": label, "bbox": [x, y, side, side], "iscrowd": 0})
    content = {
        "images": [{"id": at, "file_name": f"{at}.png", "width": 32, "height": 32} for at in range(count)],
        "annotations": boxes,
        "categories": [{"id": 0, "name": "black"}, {"id": 1, "name": "white"}],
    }
    (folder / "annotations.json").write_text(json.dumps(content))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("squares")
    write(folder / "train", 128, 0)
    write(folder / "test", 48, 1)
    return folder


@pytest.fixture(scope="module")
def untrained() -> Model:
    return load_model("edgeopt:ssd", weights="none", settings=SETTINGS)


@pytest.fixture(scope="module")
def data(root: Path, untrained: Model) -> Data:
    spec = DataSpec.model_validate({"source": str(root), "preprocess": PREPROCESS, "calibration": 32})
    return load_data(spec, model=untrained)


@pytest.fixture(scope="module")
def trained(untrained: Model, data: Data) -> Model:
    return Train.model_validate({"kind": "train", "fit": FIT}).apply(untrained, Context(data=data)).model


def judged(model: Model, data: Data) -> Outcome:
    return evaluate({"net": open_session(model)}, data.test, reference="net", anchors=model.meta.anchors)["net"]


def test_it_learns_to_find_boxes(untrained, trained, data):
    assert judged(untrained, data).precision.map50 < 0.05
    found = judged(trained, data)
    assert found.precision.map50 > 0.8
    assert found.samples == 48
    assert found.answers is None
    assert trained.meta.labels == ("black", "white")


def test_a_student_learns_from_the_teacher_alone(untrained, trained, data, tmp_path):
    save_model(trained, tmp_path / "teacher.onnx")
    teacher = ModelRef(source=str(tmp_path / "teacher.onnx"))
    stage = Distill.model_validate({"teacher": teacher, "loss": {"kind": "boxes"}, "labels": 0, "fit": FIT})
    result = stage.apply(untrained, Context(data=data))
    assert result.facts["labels"] is False
    assert judged(result.model, data).precision.map50 > 0.7


def test_losses_of_classes_are_refused(trained, data, tmp_path):
    save_model(trained, tmp_path / "teacher.onnx")
    stage = Distill.model_validate({"teacher": ModelRef(source=str(tmp_path / "teacher.onnx"))})
    with pytest.raises(UsageError, match="soft_targets compares classes"):
        stage.apply(trained, Context(data=data))


def test_a_pruned_detector_is_tuned_on_boxes_and_its_teacher(trained, data):
    fit = FIT | {"epochs": 8, "lr": 0.003}
    settings = {"kind": "prune", "target": "macs=-30%", "schedule": {"kind": "one_shot"}, "finetune": fit}
    stage = Prune.model_validate(settings)
    result = stage.apply(trained, Context(data=data))
    assert result.model.outputs[0].shape == trained.outputs[0].shape
    assert judged(result.model, data).precision.map50 > 0.6


@pytest.fixture(scope="module")
def report(trained: Model, root: Path, tmp_path_factory: pytest.TempPathFactory) -> Report:
    """The trained detector in int8 for a microcontroller."""
    out = tmp_path_factory.mktemp("run")
    save_model(trained, out / "trained.onnx")
    recipe = Recipe.model_validate(
        {
            "name": "squares",
            "model": {"source": str(out / "trained.onnx")},
            "data": {"source": str(root), "calibration": 32},
            "stages": [{"kind": "quantize"}],
            "tiers": ["mcu"],
            "gate": {"mcu": {"drop": "60pt", "accuracy": "10%"}},
        }
    )
    return run(recipe, out / "out", progress=Heard())


@pytest.mark.slow
def test_a_run_reports_and_gates_map(report):
    (row,) = report.tiers
    assert row.metric == report.metric == "mAP"
    assert row.accuracy_low < row.accuracy < row.accuracy_high
    assert row.map50 > row.accuracy > 0.3
    assert row.drop_low <= row.drop_points <= row.drop_high
    assert row.drop_points == pytest.approx(100 * (row.baseline.accuracy - row.accuracy))
    assert row.changed is None
    assert [verdict.ok for verdict in report.gate] == [True, True]
    assert all("mAP" in verdict.sentence for verdict in report.gate)


def test_classifiers_and_boxes_do_not_go_together(data, root):
    classifier = load_model("edgeopt:residual", weights="none", settings={"channels": 1, "classes": 2})
    with pytest.raises(UsageError, match="does not say how its outputs become boxes"):
        Train().apply(classifier, Context(data=data))
    with pytest.raises(UsageError, match="does not say how its outputs become boxes"):
        evaluate({"net": open_session(classifier)}, data.test, reference="net")
    small = load_model("edgeopt:ssd", weights="none", settings=SETTINGS | {"classes": 1})
    with pytest.raises(UsageError, match="has 2 classes, the model's output has 1"):
        load_data(DataSpec.model_validate({"source": str(root), "preprocess": PREPROCESS}), model=small)


def test_augmentation_that_would_leave_the_boxes_behind_is_refused(untrained, data):
    stage = Train.model_validate({"kind": "train", "fit": FIT | {"augment": {"flip": True}}})
    with pytest.raises(UsageError, match="would leave the boxes behind"):
        stage.apply(untrained, Context(data=data))
