"""Answers of two models side by side, against counting by hand."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from edgeopt.data import Split
from edgeopt.measure import Outcome
from edgeopt.measure.changes import MOST_CHANGES, change_facts, pack_bits
from edgeopt.measure.pictures import MOST_BYTES, MOST_PICTURES, SIDE, take_pictures, to_picture
from edgeopt.model import Preprocess
from edgeopt.report import Change, Report, Row

NAMES = ("ant", "bee", "cat")
TRUTH = np.array([0, 0, 1, 1, 2, 2, 2, 0])
BEFORE = np.array([0, 0, 1, 0, 2, 2, 1, 0])
AFTER = np.array([0, 1, 1, 1, 2, 0, 0, 0])


def outcome(answers: np.ndarray, truth: np.ndarray | None = TRUTH) -> Outcome:
    return Outcome(answers, None if truth is None else answers == truth, agreement=0.0, sqnr_db=0.0)


@given(arrays.arrays(np.bool_, st.integers(0, 40)))
def test_every_image_is_found_again_in_the_bits_as_the_report_describes_them(correct: np.ndarray) -> None:
    content = base64.b64decode(pack_bits(correct))
    assert [bool(content[i // 8] >> (7 - i % 8) & 1) for i in range(len(correct))] == correct.tolist()
    assert len(content) == -(-len(correct) // 8)


def test_changed_answers_come_lost_first_then_gained_then_the_rest() -> None:
    facts = change_facts(outcome(AFTER), outcome(BEFORE), TRUTH, NAMES)
    assert facts["changed"] == 4
    assert facts["changes"] == (
        Change(image=1, right="ant", before="ant", after="bee"),
        Change(image=5, right="cat", before="cat", after="ant"),
        Change(image=3, right="bee", before="ant", after="bee"),
        Change(image=6, right="cat", before="bee", after="ant"),
    )
    assert [(own.name, own.images, own.lost, own.gained) for own in facts["classes"]] == [
        ("ant", 3, 1, 0),
        ("cat", 3, 1, 0),
        ("bee", 2, 0, 1),
    ]


def test_lost_and_gained_add_up_to_the_drop_whatever_the_answers() -> None:
    random = np.random.default_rng(0)
    truth, before, after = random.integers(0, 7, (3, 500))
    facts = change_facts(outcome(after, truth), outcome(before, truth), truth, ())
    lost, gained = sum(own.lost for own in facts["classes"]), sum(own.gained for own in facts["classes"])
    assert lost - gained == int(np.sum(before == truth)) - int(np.sum(after == truth))
    assert facts["changed"] == int(np.sum(before != after)) > MOST_CHANGES == len(facts["changes"])


def test_without_labels_changes_are_told_by_class_names_and_without_those_not_at_all() -> None:
    own, base = outcome(AFTER, None), outcome(BEFORE, None)
    facts = change_facts(own, base, None, NAMES)
    assert facts["changes"][0] == Change(image=1, right=None, before="ant", after="bee")
    assert "classes" not in facts
    assert change_facts(own, base, None, ()) == {}
    assert pack_bits(own.correct) == ""


def opened(picture: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(picture.partition(",")[2])))


def test_a_small_image_keeps_its_pixels_and_a_large_one_is_made_small() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 9, 3), dtype=np.uint8)
    small = opened(to_picture(pixels))
    assert small.format == "PNG"
    np.testing.assert_array_equal(np.asarray(small), pixels)
    large = to_picture(np.full((400, 300, 3), (200, 30, 30), np.uint8))
    assert opened(large).size == (SIDE * 3 // 4, SIDE)
    assert len(base64.b64decode(large.partition(",")[2])) <= MOST_BYTES
    assert abs(int(np.asarray(opened(large))[20, 20, 0]) - 200) < 6


@pytest.mark.parametrize("shape", [(3, 12, 10), (12, 10, 3), (1, 12, 10), (12, 10)])
def test_floats_are_stretched_over_their_range_in_either_layout(shape: tuple[int, ...]) -> None:
    array = np.linspace(-2.1, 2.6, int(np.prod(shape)), dtype=np.float32).reshape(shape)
    found = np.asarray(opened(to_picture(array)))
    assert found.shape[:2] == (12, 10)
    assert (found.min(), found.max()) == (0, 255)


@pytest.mark.parametrize("array", [np.ones(16), np.ones((5, 8, 8)), np.ones((0, 8, 3)), np.full((8, 8), np.nan)])
def test_what_is_no_image_has_no_picture(array: np.ndarray) -> None:
    assert to_picture(array) == ""


class Pixels:
    def __init__(self, content: np.ndarray) -> None:
        self.content = content

    def __len__(self) -> int:
        return len(self.content)

    def read(self, indices: np.ndarray) -> np.ndarray:
        return self.content[indices]


def row(images: range) -> Row:
    changes = tuple(Change(image=n, before="a", after="b") for n in images)
    return Row(tier="t", path="m.onnx", sha256="0", size_bytes=1, baseline={"name": "b"}, changes=changes)


def test_artifacts_take_turns_at_the_pictures_and_sixteen_grey_levels_are_not_black() -> None:
    content = np.repeat(np.arange(60, dtype=np.uint8)[:, None, None, None] % 17, 8, axis=1).repeat(8, axis=2)
    preprocess = Preprocess(size=(8, 8), color="gray", scale=1 / 16)
    split = Split(Pixels(content), np.arange(60), None, preprocess)
    pictures = take_pictures([row(range(40)), row(range(40, 45))], split)
    assert len(pictures) == MOST_PICTURES
    assert list(pictures)[:4] == ["0", "40", "1", "41"]
    assert np.asarray(opened(pictures["16"])).max() == 255
    Report(name="n", recipe_hash="", pictures=pictures)


def test_no_pictures_of_samples_that_are_no_images() -> None:
    split = Split(Pixels(np.ones((9, 16), np.float32)), np.arange(9), None, None)
    assert take_pictures([row(range(3))], split) == {}
    assert take_pictures([row(range(3))], None) == {}
