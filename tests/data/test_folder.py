"""Folders of images: which layouts are understood, and the sentence for those that are not."""

import os
from pathlib import Path

import numpy as np
import pytest

from edgeopt.data import DataSpec, load_data
from edgeopt.errors import UsageError
from edgeopt.model import Preprocess

SMALL = Preprocess(size=(4, 4))


def load(folder, seed=0, **settings):
    return load_data(DataSpec(source=str(folder), preprocess=SMALL, **settings), seed=seed)


def counts(data):
    return len(data.train), len(data.test)


@pytest.mark.parametrize("test", ["test", "val", "valid", "validation", "Test"])
def test_train_and_test_folders(make_folder, test):
    data = load(make_folder({"train/dog": 4, "train/cat": 3, f"{test}/cat": 2, f"{test}/dog": 1}))
    assert data.labels == ("cat", "dog")
    assert counts(data) == (7, 3)
    assert data.train.labels.tolist() == [0] * 3 + [1] * 4
    assert data.test.labels.tolist() == [0, 0, 1]


def test_classes_are_numbered_as_torchvision_numbers_them(make_folder):
    from torchvision.datasets import ImageFolder

    root = make_folder({"b": 3, "a": 3, "C": 3, "10": 3, "9": 3})
    assert load(root).labels == tuple(ImageFolder(str(root)).classes)


def test_one_folder_per_class_is_split_by_the_seed(make_folder):
    root = make_folder({"cat": 20, "dog": 10})
    data = load(root, test_fraction=0.3)
    assert counts(data) == (21, 9)
    assert np.bincount(data.test.labels).tolist() == [6, 3]
    assert not set(data.train.index) & set(data.test.index)
    assert np.array_equal(load(root, test_fraction=0.3).test.index, data.test.index)
    assert not np.array_equal(load(root, test_fraction=0.3, seed=1).test.index, data.test.index)


def test_test_classes_may_be_fewer_but_keep_their_numbers(make_folder):
    data = load(make_folder({"train/a": 2, "train/b": 2, "train/c": 2, "test/b": 1, "test/c": 1}))
    assert data.test.labels.tolist() == [1, 2]


def test_a_class_may_be_called_train(make_folder):
    data = load(make_folder({"bus": 3, "train": 3}))
    assert data.labels == ("bus", "train")


def test_train_alone_is_split(make_folder):
    data = load(make_folder({"train/a": 5, "train/b": 5}))
    assert data.labels == ("a", "b")
    assert counts(data) == (8, 2)


def test_a_flat_folder_has_no_labels(make_folder):
    data = load(make_folder({".": 10}))
    assert data.labels == ()
    assert data.train.labels is None
    assert counts(data) == (8, 2)
    assert next(data.test.batches(2)).y is None
    assert len(data.train.sample(3, seed=0)) == 3


def test_flat_train_and_test_folders_have_no_labels_either(make_folder):
    data = load(make_folder({"train": 4, "test": 2}))
    assert data.labels == ()
    assert counts(data) == (4, 2)


def test_images_below_a_class_folder_count_and_other_files_do_not(make_folder):
    root = make_folder({"cat/indoors": 2, "cat/outdoors/day": 2, "dog": 4, ".thumbs": 3, "__MACOSX": 2})
    (root / "LICENSE.txt").write_text("CC0")
    (root / "dog" / "notes.json").write_text("{}")
    (root / "dog" / ".hidden.png").write_text("")
    assert sum(counts(load(root))) == 8


def test_a_link_back_up_does_not_loop(make_folder):
    root = make_folder({"cat": 4, "dog": 4})
    os.symlink(root / "cat", root / "cat" / "again")
    assert sum(counts(load(root))) == 8


@pytest.mark.parametrize(
    ("layout", "found"),
    [
        ({".": 2, "cat": 2}, r"images \(0000.png, ...\) beside folders \(cat, ...\)"),
        ({"cat": 5}, r"a single class \(cat\)"),
        ({"cat": 5, "dog": 0}, "class folder 'dog' holds no images"),
        ({"cat": 0, "dog": 0}, "holds no images"),
        ({".": 0}, "holds no images"),
        ({".": 1}, "no images to test on"),
        ({"train/a": 2, "train/b": 2, "test/a": 1, "test/zebra": 1}, "class 'zebra' of the test images"),
        ({"train/a": 2, "train/b": 2, "test": 2}, "one of train and test has class folders"),
    ],
)
def test_layouts_that_are_refused(make_folder, layout, found):
    root = make_folder(layout)
    with pytest.raises(UsageError, match=found) as caught:
        load(root)
    assert str(root) in str(caught.value)


def test_no_such_folder(tmp_path):
    with pytest.raises(UsageError, match="there is no such folder"):
        load(tmp_path / "nowhere")


def test_a_file_of_another_kind(tmp_path):
    (tmp_path / "images.zip").write_bytes(b"PK")
    with pytest.raises(UsageError, match="a file of another kind"):
        load(tmp_path / "images.zip")


def test_a_folder_that_may_not_be_read(make_folder, monkeypatch):
    root, scandir = make_folder({"cat": 2, "dog": 2}), os.scandir

    def refuse(path):
        if Path(path).name == "dog":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UsageError, match=r"dog: cannot be read \(Permission denied\)"):
        load(root)


def test_a_limit_holds_for_each_side_and_is_balanced(make_folder):
    root = make_folder({"train/a": 9, "train/b": 9, "test/a": 5, "test/b": 5})
    data = load(root, limit=6)
    assert np.bincount(data.train.labels).tolist() == [3, 3]
    assert np.bincount(data.test.labels).tolist() == [3, 3]


@pytest.mark.skipif(os.name == "nt", reason="file names are not bytes there")
def test_names_that_are_not_text_can_be_reported(make_folder):
    root = os.fsencode(make_folder({"a": 150, "b": 150}))
    os.rename(root + b"/a", root + b"/\xff")
    with open(root + b"/\xff/\xfe.png", "wb") as file:
        file.write(b"no image")
    data = load(os.fsdecode(root))
    assert data.labels == ("b", r"\udcff")
    assert data.skipped == (r"\udcff/\udcfe.png: not an image",)
