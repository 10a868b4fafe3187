"""load_data as a whole: splits, batches, fingerprints, and whether data and model fit."""

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from edgeopt.data import DataSpec, Split, load_data
from edgeopt.data.arrays import ArraySource
from edgeopt.errors import UsageError
from edgeopt.model import Meta, Preprocess

SMALL = Preprocess(size=(4, 4))


def load(source, preprocess=None, model=None, seed=0, progress=None, **others):
    spec = DataSpec(source=str(source), preprocess=preprocess, **others)
    return load_data(spec, model=model, seed=seed, **({} if progress is None else {"progress": progress}))


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.integers(0, 3), min_size=4, max_size=60),
    st.floats(0.05, 0.9),
    st.integers(1, 80),
    st.one_of(st.none(), st.integers(2, 30)),
    st.integers(0, 2**31),
)
def test_calibration_is_training_data_and_nothing_is_on_both_sides(tmp_path_factory, y, fraction, count, limit, seed):
    path = tmp_path_factory.mktemp("npz") / "x.npz"
    np.savez(path, x=np.arange(len(y) * 2, dtype=np.float32).reshape(-1, 2), y=np.array([*y[:-2], 0, 0]))
    data = load(path, seed=seed, test_fraction=fraction, calibration=count, limit=limit)
    train, calibration, test = (split.index.tolist() for split in (data.train, data.calibration, data.test))
    assert not set(train) & set(test)
    assert set(calibration) <= set(train)
    assert len(set(calibration)) == len(calibration) == min(count, len(train))
    assert len(set(train)) == len(train)
    assert max(len(train), len(test)) <= (limit or len(y))


def numbers(count, labels=None):
    source = ArraySource(np.arange(count, dtype=np.float32)[:, None])
    return Split(source, np.arange(count), labels, None)


@given(st.integers(1, 50), st.integers(1, 60))
def test_batches_give_every_sample_once_in_order(count, size):
    batches = list(numbers(count, np.arange(count)).batches(size))
    assert [len(b.x) for b in batches[:-1]] == [size] * (len(batches) - 1)
    for key in ("y", "index"):
        assert np.concatenate([getattr(b, key) for b in batches]).tolist() == list(range(count))
    assert np.concatenate([b.x for b in batches])[:, 0].tolist() == list(range(count))


def test_an_empty_split_has_no_batches():
    assert list(numbers(0).batches(4)) == []


def test_an_error_while_reading_reaches_the_caller():
    class Broken:
        def __len__(self):
            return 4

        def read(self, indices):
            if 2 in indices:
                raise UsageError("gone")
            return np.zeros((len(indices), 1), np.float32)

    batches = Split(Broken(), np.arange(4), None, None).batches(2)
    assert len(next(batches).x) == 2
    with pytest.raises(UsageError, match="gone"):
        next(batches)


def test_the_next_batch_is_read_while_the_caller_works():
    import threading

    class Watched(ArraySource):
        started = threading.Event()

        def read(self, indices):
            if 2 in indices:
                self.started.set()
            return super().read(indices)

    batches = Split(Watched(np.zeros((6, 1), np.float32)), np.arange(6), None, None).batches(2)
    next(batches)
    assert Watched.started.wait(5)


def test_a_sample_is_decided_by_its_seed_and_balanced():
    split = numbers(300, np.arange(300) // 100)
    first, again, other = split.sample(30, 1), split.sample(30, 1), split.sample(30, 2)
    assert np.array_equal(first.index, again.index)
    assert not np.array_equal(first.index, other.index)
    assert np.bincount(first.labels).tolist() == [10, 10, 10]
    assert np.array_equal(first.labels, first.index // 100)
    assert len(split.sample(1000, 1)) == 300


def test_a_smaller_sample_is_the_beginning_of_a_larger_one():
    split = numbers(300, np.arange(300) // 100)
    assert np.array_equal(split.sample(10, 1).index, split.sample(50, 1).index[:10])


@pytest.fixture
def folder(make_folder):
    return make_folder({"cat": 20, "dog": 20})


def test_the_fingerprint_follows_content_and_nothing_else(folder, tmp_path):
    first = load(folder, SMALL).fingerprint
    moved = tmp_path / "elsewhere"
    shutil.copytree(folder, moved)
    for file in moved.rglob("*.png"):
        os.utime(file, (0, 0))
    assert load(moved, SMALL).fingerprint == first
    one, other = sorted((moved / "cat").iterdir())[:2]
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)
    assert load(moved, SMALL).fingerprint != first


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"calibration": 5},
        {"test_fraction": 0.4},
        {"limit": 4},
        {"preprocess": Preprocess(size=(4, 4), mean=(0.5,))},
    ],
)
def test_the_fingerprint_follows_the_settings(folder, change):
    usual = {"preprocess": SMALL}
    assert load(folder, **usual | change).fingerprint != load(folder, **usual).fingerprint


def test_a_renamed_class_is_another_data_set(folder):
    first = load(folder, SMALL).fingerprint
    (folder / "cat").rename(folder / "cats")
    assert load(folder, SMALL).fingerprint != first


@pytest.mark.parametrize("classes", [1, 3, 1000])
def test_another_number_of_classes_than_the_models(folder, make_model, classes):
    with pytest.raises(UsageError, match=f"has 2 classes, the model's output has {classes};"):
        load(folder, SMALL, make_model(classes=classes))


def test_numbered_labels_need_only_be_below_the_models_width(tmp_path, make_model):
    path = tmp_path / "x.npz"
    np.savez(path, x=np.random.default_rng(0).random((9, 3, 4, 4)), y=np.arange(9) % 3)
    assert load(path, model=make_model(classes=5)).labels == ("0", "1", "2", "3", "4")
    with pytest.raises(UsageError, match="has 3 classes, the model's output has 2"):
        load(path, model=make_model(classes=2))


def test_class_names_decide_the_numbers(folder, make_model, progress):
    model = make_model(classes=3, meta=Meta(labels=("dog", "bird", "cat"), preprocess=SMALL))
    data = load(folder, model=model, progress=progress)
    assert data.labels == ("dog", "bird", "cat")
    folders = [data.test.source.name(i).split("/")[0] for i in data.test.index]
    assert [data.labels[y] for y in data.test.labels] == folders
    assert progress.warnings == []


def test_unknown_class_names_are_taken_in_order_with_a_warning(folder, make_model, progress):
    data = load(folder, SMALL, make_model(meta=Meta(labels=("katze", "hund"))), progress=progress)
    assert data.labels == ("cat", "dog")
    assert "are not the model's (katze, ...)" in progress.warnings[0]


@pytest.mark.parametrize(
    ("preprocess", "shape", "found"),
    [
        (Preprocess(size=(5, 4)), "3,4,4", "samples are 3 x 5 x 4, the model's input is 3 x 4 x 4"),
        (Preprocess(size=(4, 4), color="gray"), "3,4,4", "samples are 1 x 4 x 4"),
        (Preprocess(size=(4, 4), layout="NHWC"), "3,4,4", "samples are 4 x 4 x 3"),
        (SMALL, "7", "the model's input is 7"),
    ],
)
def test_another_input_than_the_models(folder, make_model, preprocess, shape, found):
    with pytest.raises(UsageError, match=found):
        load(folder, preprocess, make_model(shape))


def test_an_open_dimension_takes_any_size(folder, make_model):
    assert load(folder, SMALL, make_model("3,h,w")).preprocess == SMALL


def test_a_plain_string_is_the_source():
    assert DataSpec.model_validate("digits") == DataSpec(source="digits")


@pytest.mark.parametrize(
    "settings",
    [{}, {"source": ""}, {"test_fraction": 0}, {"test_fraction": 1}, {"calibration": 0}, {"limit": 1}, {"sead": 1}],
)
def test_settings_out_of_bounds(settings):
    with pytest.raises(ValidationError):
        DataSpec.model_validate(settings if "source" in settings or not settings else {"source": "digits", **settings})


def test_reading_a_recipe_loads_neither_torch_nor_pillow():
    code = "import sys, edgeopt.data; print([m for m in ('torch', 'torchvision', 'PIL') if m in sys.modules])"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"
