"""The built-in digits and .npz files."""

import pickle
from pathlib import Path

import numpy as np
import pytest

import edgeopt.data
from edgeopt.data import DataSpec, load_data
from edgeopt.errors import UsageError
from edgeopt.model import Preprocess

rng = np.random.default_rng(3)


def load(path, seed=0, model=None, progress=None, **settings):
    others = {} if progress is None else {"progress": progress}
    return load_data(DataSpec(source=str(path), **settings), seed=seed, model=model, **others)


@pytest.fixture
def save(tmp_path):
    def save(**arrays):
        np.savez(tmp_path / "some.npz", **arrays)
        return tmp_path / "some.npz"

    return save


def test_digits_are_scikit_learns_and_their_split_is_fixed():
    sklearn = pytest.importorskip("sklearn.datasets")
    bunch = sklearn.load_digits()
    data = load("digits")
    everything = np.concatenate([data.train.index, data.test.index])
    assert sorted(everything) == list(range(1797))
    for split in (data.train, data.test):
        assert np.array_equal(split.raw(np.arange(len(split)))[..., 0], bunch.images[split.index])
        assert np.array_equal(split.labels, bunch.target[split.index])
    assert np.array_equal(load("digits", seed=5).test.index, data.test.index)


def test_digits_are_ready_for_a_network():
    data = load("digits")
    assert (len(data.train), len(data.calibration), len(data.test)) == (1437, 256, 360)
    assert np.bincount(data.test.labels).tolist() == [36] * 10
    assert data.labels == tuple("0123456789")
    batch = next(data.test.batches(100))
    assert batch.x.shape == (100, 1, 8, 8)
    assert batch.x.dtype == np.float32
    assert (batch.x.min(), batch.x.max()) == (0, 1)
    assert set(data.calibration.index) <= set(data.train.index)


def test_digits_carry_their_attribution():
    folder = Path(edgeopt.data.__file__).parent
    with np.load(folder / "digits.npz", allow_pickle=False) as file:
        inside = str(file["attribution"])
    beside = (folder / "DIGITS.md").read_text()
    for text in (inside, beside):
        assert "10.24432/C50P49" in text
        assert "CC BY 4.0" in text
        assert "Alpaydin" in text
        assert "Kaynak" in text


def test_digits_fit_a_larger_model(make_model):
    data = load("digits", model=make_model("1,12,12", 10), preprocess=Preprocess(size=(12, 12), color="gray"))
    assert next(data.test.batches(5)).x.shape == (5, 1, 12, 12)


def test_npz_floats_pass_unchanged(save):
    x = rng.normal(size=(10, 3, 4)).astype(np.float32)
    data = load(save(x=x, y=np.arange(10) % 2))
    assert data.preprocess is None
    assert data.labels == ("0", "1")
    for batch in data.train.batches(3):
        assert np.array_equal(batch.x, x[data.train.index[batch.index]])


def test_npz_keeps_its_own_test_split_and_class_names(save):
    x, y = rng.random((8, 2), np.float32), np.array([0, 1] * 4)
    data = load(save(x=x, y=y, x_test=x[:3] + 1, y_test=y[:3], labels=np.array(["off", "on"])))
    assert (len(data.train), len(data.test)) == (8, 3)
    assert np.array_equal(next(data.test.batches(3)).x, x[:3] + 1)
    assert data.labels == ("off", "on")


def test_npz_needs_no_labels(save):
    data = load(save(x=rng.random((10, 2))))
    assert data.labels == ()
    assert next(data.test.batches(9)).x.dtype == np.float32


def test_npz_rows_that_are_test_rows_too_are_left_out(save, progress):
    x = rng.random((8, 2))
    data = load(save(x=x, x_test=x[:3]), progress=progress)
    assert len(data.train) == 5
    assert "3 training image(s) left out" in progress.warnings[0]


def test_npz_of_uint8_holds_images(save, make_model, progress):
    x = rng.integers(0, 256, (8, 6, 6, 3), np.uint8)
    data = load(save(x=x), model=make_model("3,4,4"), progress=progress)
    assert next(data.test.batches(1)).x.shape == (1, 3, 4, 4)
    assert "assumed" in progress.warnings[0]


def test_preprocessing_declared_for_ready_arrays_is_said_to_be_idle(save, progress):
    load(save(x=rng.random((8, 2))), progress=progress, preprocess=Preprocess(size=(4, 4)))
    assert "not applied" in progress.warnings[0]


class Bomb:
    def __reduce__(self):
        return Path.touch, (Path("pickle-ran"),)


def test_pickled_objects_are_refused_and_never_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez("objects.npz", x=np.array([Bomb()], dtype=object))
    Path("bare.npz").write_bytes(pickle.dumps(Bomb()))
    for name in ("objects.npz", "bare.npz"):
        with pytest.raises(UsageError, match="pickled objects are refused"):
            load(name)
    assert not Path("pickle-ran").exists()


ONE = np.ones((6, 2), np.float32)


@pytest.mark.parametrize(
    ("arrays", "found"),
    [
        ({"images": ONE}, "has no array x, only images"),
        ({"x": ONE, "y": np.zeros(5, int)}, r"y: has shape \[5\] for 6 samples"),
        ({"x": ONE, "y": np.zeros(6)}, "y: is float64; class numbers are integers"),
        ({"x": ONE, "y": np.full(6, -1)}, "y: holds -1"),
        ({"x": ONE * np.nan}, "x: holds NaN or infinity"),
        ({"x": ONE.astype(int)}, "x: is int64"),
        ({"x": ONE[:0]}, r"x: has shape \[0, 2\]"),
        ({"x": ONE[:, 0]}, r"x: has shape \[6\]"),
        ({"x": np.ones((6, 3, 8, 8), np.uint8)}, r"uint8 images are \[n, height, width, 1 or 3\]"),
        ({"x": ONE, "x_test": ONE[:, :1]}, r"x is float32 \[2\] and x_test is float32 \[1\]"),
        ({"x": ONE, "y": np.zeros(6, int), "x_test": ONE}, "y and y_test go together"),
        ({"x": ONE, "y": np.arange(6), "labels": np.array(["a"])}, "names 1 classes, and y goes up to 5"),
        ({"x": ONE}, "every training image is in the test split too"),
    ],
)
def test_npz_files_that_are_refused(save, arrays, found):
    path = save(**arrays)
    with pytest.raises(UsageError, match=found) as caught:
        load(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04 cut short"])
def test_a_broken_npz(tmp_path, content):
    (tmp_path / "x.npz").write_bytes(content)
    with pytest.raises(UsageError, match=r"x\.npz"):
        load(tmp_path / "x.npz")


def test_a_truncated_npz(save):
    path = save(x=rng.random((100, 20)))
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(UsageError, match=r"is not an \.npz of plain arrays"):
        load(path)


def test_no_such_npz(tmp_path):
    with pytest.raises(UsageError, match="there is no such file"):
        load(tmp_path / "x.npz")


def test_a_single_array_with_the_wrong_ending(tmp_path):
    with (tmp_path / "x.npz").open("wb") as file:
        np.save(file, ONE)
    with pytest.raises(UsageError, match="holds a single array"):
        load(tmp_path / "x.npz")
