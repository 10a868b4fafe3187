"""torchvision's datasets and those of a user's own function."""

import pickle
import urllib.error
import urllib.request

import numpy as np
import pytest

import edgeopt.data.memory
from edgeopt.data import DataSpec, load_data
from edgeopt.errors import StageFailed, UsageError
from edgeopt.model import Preprocess

SMALL = Preprocess(size=(4, 4))


def load(source, preprocess=SMALL, progress=None, model=None):
    others = {} if progress is None else {"progress": progress}
    return load_data(DataSpec(source=str(source), preprocess=preprocess), model=model, **others)


@pytest.fixture
def write(tmp_path):
    """`write(body)`: the reference of a function `make` in a file of its own."""

    def write(body):
        path = tmp_path / "data.py"
        path.write_text("import numpy as np\nfrom PIL import Image\nrng = np.random.default_rng(0)\n" + body)
        return f"{path}:make"

    return write


PIXELS = """
class Pictures:
    def __init__(self, count, wrap):
        self.pixels, self.wrap = rng.integers(0, 256, (count, 6, 5, 3), np.uint8), wrap
    def __len__(self):
        return len(self.pixels)
    def __getitem__(self, i):
        return self.wrap(self.pixels[i]), i % 3
def make():
    return Pictures(12, WRAP), Pictures(6, WRAP)
"""


@pytest.mark.parametrize("wrap", ["Image.fromarray", "np.asarray", "__import__('torch').from_numpy"])
@pytest.mark.parametrize("budget", [10**6, 0])
def test_a_users_images_of_any_kind(write, monkeypatch, wrap, budget):
    monkeypatch.setattr(edgeopt.data.memory, "MEMORY_BUDGET", budget)
    data = load(write(PIXELS.replace("WRAP", wrap)))
    assert (len(data.train), len(data.test)) == (12, 6)
    assert data.labels == ("0", "1", "2")
    assert data.test.labels.tolist() == [0, 1, 2, 0, 1, 2]
    pixels = np.random.default_rng(0).integers(0, 256, (12, 6, 5, 3), np.uint8)
    from PIL import Image

    expected = np.asarray(Image.fromarray(pixels[4]).resize((4, 4), Image.Resampling.BILINEAR))
    assert np.array_equal(data.train.raw(np.array([4]))[0], expected)


def test_a_users_float_tensors_are_model_ready(write):
    body = "def make():\n    return [(np.full((2, 3), i, np.float64), i % 2) for i in range(8)], None\n"
    data = load(write(body), preprocess=None)
    assert (data.preprocess, len(data.train), len(data.test)) == (None, 6, 2)
    batch = next(data.train.batches(6))
    assert batch.x.dtype == np.float32
    assert np.array_equal(batch.x[:, 0, 0], data.train.index)


def test_a_users_arrays(write):
    body = (
        "def make():\n    x = rng.random((9, 4))\n    return (x, np.arange(9) % 2), (x[:3] + 1, np.array([0, 1, 0]))\n"
    )
    data = load(write(body), preprocess=None)
    assert (len(data.train), len(data.test), data.test.labels.tolist()) == (9, 3, [0, 1, 0])


def test_without_a_model_images_keep_the_size_they_have(write, progress):
    data = load(write(PIXELS.replace("WRAP", "Image.fromarray")), preprocess=None, progress=progress)
    assert data.preprocess.size == (6, 5)
    assert "assumed size [6, 5]" in progress.warnings[0]


def test_a_list_of_targets_saves_reading_for_labels(write, monkeypatch):
    monkeypatch.setattr(edgeopt.data.memory, "MEMORY_BUDGET", 0)
    body = """
reads = []
class Many:
    targets = [i % 2 for i in range(1000)]
    def __len__(self):
        return 1000
    def __getitem__(self, i):
        reads.append(i)
        return np.full((4, 4, 3), i % 256, np.uint8), SHIFT i % 2
def make():
    return Many(), None
"""
    import sys

    data = load(write(body.replace("SHIFT", "")))
    reads = sys.modules["edgeopt_user_data"].reads
    assert len(reads) < 100
    assert np.array_equal(data.train.labels, data.train.index % 2)
    # A list that says something else than the items is not believed.
    data = load(write(body.replace("SHIFT", "1 -")))
    assert np.array_equal(data.train.labels, 1 - data.train.index % 2)


def test_the_fingerprint_sees_the_images(write):
    first = load(write(PIXELS.replace("WRAP", "np.asarray"))).fingerprint
    assert load(write(PIXELS.replace("WRAP", "np.asarray"))).fingerprint == first
    assert load(write(PIXELS.replace("WRAP", "np.flipud"))).fingerprint != first


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ("def make(:\n", r"SyntaxError: .*\(data.py:4\)"),
        ("import no_such_module\n", r"ModuleNotFoundError: .*\(data.py:4\)"),
        ("def other():\n    pass\n", "has no function 'make'"),
        ("def make():\n    return 1 / 0\n", r"ZeroDivisionError: division by zero \(data.py:5\)"),
        ("def make():\n    raise SystemExit(3)\n", r"SystemExit: 3 \(data.py:5\)"),
        ("def make():\n    return np.zeros(0)[5], None\n", r"IndexError: .*\(data.py:5\)"),
        ("def make():\n    return [1]\n", r"does not return \(train, test\)"),
        ("def make():\n    return None, [1]\n", "returns no training data"),
        ("def make():\n    return [], None\n", "is empty"),
        ("def make():\n    return 5, None\n", "int is not a map-style dataset"),
        ("def make():\n    return [1, 2], None\n", "sample 0 is not a pair"),
        ("def make():\n    return [(np.zeros((4, 4, 3), np.uint8), 'cat')] * 9, None\n", "of a sample is 'cat'"),
        ("def make():\n    return [(np.zeros((4, 4, 3), np.uint8), -1)] * 9, None\n", "class numbers start at 0"),
        ("def make():\n    return [(np.zeros((3, 4, 4), np.uint8), 0)] * 9, None\n", r"\[0\]: is uint8 \[3, 4, 4\]"),
        ("def make():\n    return [(np.zeros((4, 4, 3), int), 0)] * 9, None\n", "is int64"),
        ("def make():\n    return [(np.zeros(3 + i // 8), 0) for i in range(9)], None\n", r"\[8\]: is \[4\], the"),
        ("def make():\n    return [(np.full(3, np.nan), 0)] * 9, None\n", "not finite"),
        ("def make():\n    return (np.ones((9, 2)), None), [1]\n", "arrays on one side"),
        ("def make():\n    return (np.ones((9, 2)), None), (np.ones((2, 2)), np.zeros(2, int))\n", "labels for one of"),
    ],
)  # fmt: skip
def test_mistakes_in_users_code_are_one_sentence_with_the_line(write, body, found):
    with pytest.raises(UsageError, match=found) as caught:
        load(write(body))
    assert "data.py" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_error_in_the_middle_of_a_users_dataset(write):
    body = """
class Broken:
    def __len__(self):
        return 9
    def __getitem__(self, i):
        if i == 7:
            raise KeyError("seven")
        return np.zeros((4, 4, 3), np.uint8), 0
def make():
    return Broken(), None
"""
    with pytest.raises(UsageError, match=r"KeyError: 'seven' \(data.py:10\)"):
        load(write(body))


def test_a_users_file_may_import_its_neighbour(write, tmp_path):
    (tmp_path / "neighbour_of_data.py").write_text("COUNT = 8\n")
    body = "import neighbour_of_data as n\ndef make():\n    return (rng.random((n.COUNT, 2)), None), None\n"
    assert len(load(write(body), preprocess=None).train) == 6


@pytest.mark.parametrize("source", ["data.py", "no.py:make"])
def test_a_function_that_is_not_there(source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="no such f"):
        load(source)


@pytest.fixture
def cifar(cache, monkeypatch):
    """A tiny CIFAR-10 in the cache folder, in the files that torchvision's own class reads."""
    import torchvision.datasets.cifar as module

    monkeypatch.setattr(module, "check_integrity", lambda *_: True)
    monkeypatch.setattr(module.CIFAR10, "train_list", [("data_batch_1", "")])
    folder = cache / "torchvision" / "CIFAR10" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    names = [f"class{i}" for i in range(10)]
    for name, count in (("data_batch_1", 40), ("test_batch", 10)):
        pixels = rng.integers(0, 256, (count, 3072), np.uint8)
        content = {"data": pixels, "labels": [i % 10 for i in range(count)]}
        (folder / name).write_bytes(pickle.dumps(content))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": names}))
    return names


def test_torchvisions_cifar10(cifar):
    data = load("torchvision:CIFAR10", Preprocess(size=(32, 32)))
    assert (data.name, len(data.train), len(data.test)) == ("CIFAR10", 40, 10)
    assert data.labels == tuple(cifar)
    from torchvision.datasets import CIFAR10

    from edgeopt.data.cache import cache_folder

    truth = CIFAR10(cache_folder() / "torchvision" / "CIFAR10", train=False)
    for position, (image, label) in enumerate(truth):
        assert np.array_equal(data.test.raw(np.array([position]))[0], np.asarray(image))
        assert data.test.labels[position] == label


@pytest.mark.parametrize("name", ["CIFAR10", "MNIST", "Flowers102", "SVHN"])
def test_no_network_is_one_sentence_with_the_folder_to_fill(name, cache, monkeypatch):
    def refuse(*_, **__):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    pytest.importorskip("scipy")
    with pytest.raises(StageFailed, match="cannot be had") as caught:
        load(f"torchvision:{name}")
    assert str(cache / "torchvision" / name) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("CIFAR11", "no such set"),
        ("wrap_dataset_for_transforms_v2", "no such set"),
        ("FakeData", "is not a set in a folder"),
        ("EMNIST", "needs split besides a folder"),
        ("Kinetics", "needs frames_per_clip besides a folder"),
    ],
)
def test_torchvision_sets_that_do_not_serve(name, found):
    with pytest.raises(UsageError, match=found):
        load(f"torchvision:{name}")


def test_more_test_images_than_training_images(write):
    body = "def make():\n    n = [(np.full(2, float(i)), 0) for i in range(9)]\n    return n[:3], n[3:]\n"
    data = load(write(body), preprocess=None)
    assert data.test.raw(np.arange(6))[:, 0].tolist() == [3, 4, 5, 6, 7, 8]
