"""Boxes in COCO's format: they follow the images, and broken files are named with the place."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from heard import Heard
from PIL import Image

from edgeopt.data import DataSpec, load_data
from edgeopt.data.preprocess import fit_boxes, fit_image
from edgeopt.errors import UsageError
from edgeopt.model import Preprocess

PLAIN = Preprocess(size=(16, 32))
CATEGORIES = [{"id": 7, "name": "bee"}, {"id": 3, "name": "ant"}]


def write(folder: Path, count: int = 8, seed: int = 0, name: str = "annotations.json", inside: str = "images") -> dict:
    """Noise of 40 x 20 pixels, a box of ants in each but the last, and in the first one of bees and a crowd."""
    rng = np.random.default_rng(seed)
    (folder / inside).mkdir(parents=True, exist_ok=True)
    for at in range(count):
        Image.fromarray(rng.integers(0, 255, (20, 40, 3), np.uint8)).save(folder / inside / f"{at}.png")
    boxes = [
        {"id": at, "image_id": at, "category_id": 3, "bbox": [4, 2, 10, 5], "iscrowd": 0} for at in range(count - 1)
    ]
    boxes.append({"id": 90, "image_id": 0, "category_id": 7, "bbox": [20, 10, 20, 10], "iscrowd": 0})
    boxes.append({"id": 91, "image_id": 0, "category_id": 3, "bbox": [0, 0, 40, 20], "iscrowd": 1})
    content = {
        "images": [{"id": at, "file_name": f"{at}.png", "width": 40, "height": 20} for at in range(count)],
        "annotations": boxes,
        "categories": CATEGORIES,
    }
    (folder / name).write_text(json.dumps(content))
    return content


def load(root: Path, preprocess: Preprocess = PLAIN, **settings):
    return load_data(DataSpec(source=str(root), preprocess=preprocess, **settings), progress=Heard())


def test_boxes_are_scaled_with_the_images(tmp_path):
    write(tmp_path / "train")
    write(tmp_path / "test", seed=1)
    data = load(tmp_path)
    assert data.labels == ("ant", "bee")  # in the order of their ids
    assert data.train.labels is None
    assert (len(data.train), len(data.test)) == (8, 8)
    first = data.test.boxes[0]
    np.testing.assert_allclose(first[0], [3.2, 1.6, 11.2, 5.6, 0, 0], rtol=1e-6)
    np.testing.assert_allclose(first[1], [16, 8, 32, 16, 1, 0], rtol=1e-6)
    np.testing.assert_allclose(first[2], [0, 0, 32, 16, 0, 1], rtol=1e-6)
    assert (data.test.boxes[1:, 1:, 4] == -1).all()
    assert (data.test.boxes[-1, :, 4] == -1).all()
    assert data.test.read(np.arange(2)).x.shape == (2, 3, 16, 32)


def test_a_single_file_is_split_by_the_seed_and_boxes_stay_with_their_images(tmp_path):
    content = write(tmp_path, count=40)
    for at, own in enumerate(content["annotations"][:39]):
        own["bbox"] = [0, 0, at % 39 + 1, 20]
    (tmp_path / "annotations.json").write_text(json.dumps(content))
    data = load(tmp_path, calibration=8)
    assert (len(data.train), len(data.test), len(data.calibration)) == (32, 8, 8)
    for split in (data.train, data.test, data.calibration.take(np.arange(3))):
        wide = split.boxes[:, 0, 2] * 40 / 32
        empty = split.index == 39
        np.testing.assert_allclose(wide[~empty], split.index[~empty] + 1, rtol=1e-5)


@pytest.mark.parametrize("layout", ["coco", "roboflow", "one"])
def test_layouts_that_people_have(tmp_path, layout):
    if layout == "coco":
        (tmp_path / "annotations").mkdir()
        write(tmp_path, name="annotations/instances_train2017.json", inside="train2017")
        write(tmp_path, seed=1, name="annotations/instances_val2017.json", inside="val2017")
    elif layout == "roboflow":
        write(tmp_path / "train", name="_annotations.coco.json", inside=".")
        write(tmp_path / "valid", seed=1, name="_annotations.coco.json", inside=".")
    else:
        write(tmp_path / "train")
    data = load(tmp_path)
    assert len(data.train) + len(data.test) == (8 if layout == "one" else 16)
    assert data.train.boxes.shape[2] == 6


def test_the_fingerprint_knows_the_boxes(tmp_path):
    content = write(tmp_path)
    before = load(tmp_path).fingerprint
    assert load(tmp_path).fingerprint == before
    content["annotations"][0]["bbox"][0] += 1
    (tmp_path / "annotations.json").write_text(json.dumps(content))
    assert load(tmp_path).fingerprint != before


@pytest.mark.parametrize(
    "preprocess", [PLAIN, Preprocess(size=(16, 16), resize=18), Preprocess(size=(12, 10), resize=12)]
)
def test_a_box_stays_on_what_it_was_drawn_around(preprocess):
    """A white rectangle on black, resized and cropped: the fitted box is where the white is."""
    pixels = np.zeros((60, 80), np.uint8)
    pixels[20:44, 24:52] = 255
    fitted = fit_image(Image.fromarray(pixels), preprocess)[..., 0]
    rows, columns = np.nonzero(fitted > 127)
    box = fit_boxes(np.array([[24.0, 20, 52, 44, 0, 0]]), (80, 60), preprocess)[0]
    found = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    np.testing.assert_allclose(box[:4], found, atol=1.0)


def test_boxes_outside_of_the_crop_go_and_are_counted(tmp_path):
    content = write(tmp_path)
    content["annotations"][1]["bbox"] = [0, 0, 3, 20]  # left of the centre crop
    content["annotations"][2]["bbox"] = [5, 5, 0, 5]
    (tmp_path / "annotations.json").write_text(json.dumps(content))
    progress = Heard()
    spec = DataSpec(source=str(tmp_path), preprocess=Preprocess(size=(16, 16), resize=16))
    load_data(spec, progress=progress)
    assert any("2 boxes of" in text for text in progress.warnings), progress.warnings


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("annotations.0.bbox", [1, 2, 3], r"annotations\[0\]: bbox is \[1, 2, 3\]; write \[x, y, width, height\]"),
        ("annotations.0.bbox", [1, 2, "3", 4], "bbox is"),
        ("annotations.0.bbox", [1, 2, float("nan"), 4], "bbox is"),
        ("annotations.0.image_id", 99, r"annotations\[0\]: image_id 99 is not in the file"),
        ("annotations.0.category_id", [3], r"category_id \[3\] is not in the file"),
        ("annotations.0", "box", r"annotations\[0\]: image_id None"),
        ("annotations", {}, "has no list 'annotations'"),
        ("annotations", [], "annotates no box"),
        ("images", [], "names no images"),
        ("images.1.id", 0, r"images\[1\]: id 0 is there twice"),
        ("images.1.id", None, r"images\[1\]: has no id"),
        ("images.1.file_name", "../../etc/passwd", "image 1: file_name '../../etc/passwd' is no file of"),
        ("images.1.file_name", "/etc/passwd", "is no file of"),
        ("images.1.width", -4, "width and height are -4 and 20"),
        ("images.1.width", 400, "is 40 x 20 pixels, and the annotations are for 400 x 20"),
        ("categories", [], "names no categories"),
    ],
)
def test_broken_annotations_are_named(tmp_path, key, value, message):
    content = write(tmp_path)
    *path, last = [int(part) if part.isdigit() else part for part in key.split(".")]
    place = content
    for part in path:
        place = place[part]
    place[last] = value
    (tmp_path / "annotations.json").write_text(json.dumps(content))
    with pytest.raises(UsageError, match=message) as raised:
        load(tmp_path)
    assert str(tmp_path / "annotations.json") in str(raised.value)


@pytest.mark.parametrize("text", ["", "{", "[1]", "[" * 100_000])
def test_what_is_not_json_is_said_so(tmp_path, text):
    write(tmp_path)
    (tmp_path / "annotations.json").write_text(text)
    with pytest.raises(UsageError, match=r"is not JSON|has no list 'images'"):
        load(tmp_path)


def test_one_image_cannot_take_all_the_memory(tmp_path):
    content = write(tmp_path)
    content["annotations"] *= 400
    (tmp_path / "annotations.json").write_text(json.dumps(content))
    with pytest.raises(UsageError, match="image 0 has 1200 boxes; at most 1000 can be held"):
        load(tmp_path)


def test_sizes_that_are_not_stated_are_read(tmp_path):
    content = write(tmp_path)
    expected = load(tmp_path).test.boxes
    for own in content["images"]:
        del own["width"], own["height"]
    (tmp_path / "annotations.json").write_text(json.dumps(content))
    np.testing.assert_array_equal(load(tmp_path).test.boxes, expected)


def test_images_that_are_missing_are_named(tmp_path):
    write(tmp_path)
    (tmp_path / "images" / "3.png").unlink()
    with pytest.raises(UsageError, match=r"1 of 8 images cannot be read \(images/3.png: No such file"):
        load(tmp_path)


def test_categories_of_both_parts_have_to_agree(tmp_path):
    write(tmp_path / "train")
    content = write(tmp_path / "test", seed=1)
    content["categories"] = [{"id": 7, "name": "bee"}, {"id": 3, "name": "cat"}]
    (tmp_path / "test" / "annotations.json").write_text(json.dumps(content))
    with pytest.raises(UsageError, match=r"category 'cat' \(id 3\) is not among those of annotations.json"):
        load(tmp_path)
