"""Folders that do not fit in memory: decoded once into a mapped file, whatever happens to it or at the same time."""

import multiprocessing
import os
import pickle
import signal
import time

import numpy as np
import pytest

import edgeopt.data.decoded
import edgeopt.data.images
import edgeopt.data.memory
from edgeopt.data import DataSpec, load_data
from edgeopt.data.decoded import open_or_write
from edgeopt.errors import UsageError
from edgeopt.model import Preprocess
from edgeopt.progress import SILENT

SMALL = Preprocess(size=(4, 4))
ROW = 4 * 4 * 3


@pytest.fixture(autouse=True)
def little_memory(monkeypatch):
    monkeypatch.setattr(edgeopt.data.memory, "MEMORY_BUDGET", 0)


@pytest.fixture
def folder(make_folder):
    return make_folder({"train/a": 30, "train/b": 30, "test/a": 5, "test/b": 5})


def load(folder, progress=SILENT, preprocess=SMALL):
    return load_data(DataSpec(source=str(folder), preprocess=preprocess), progress=progress)


def everything(data):
    return [split.raw(np.arange(len(split))) for split in (data.train, data.test)]


def same(one, other):
    return all(np.array_equal(*pair) for pair in zip(one, other, strict=True))


def caches(cache):
    return sorted(path.parent for path in (cache / "decoded").glob("*/index.json"))


@pytest.fixture
def expected(folder, monkeypatch):
    """The images as they are without any cache."""
    with monkeypatch.context() as patch:
        patch.setattr(edgeopt.data.memory, "MEMORY_BUDGET", 10**9)
        return everything(load(folder))


@pytest.fixture
def decoded(monkeypatch):
    """Counts images that are decoded."""
    done, fit = [], edgeopt.data.images.fit_image
    monkeypatch.setattr(edgeopt.data.images, "fit_image", lambda *a: done.append(1) or fit(*a))
    return done


def test_images_are_decoded_once_for_all_runs(folder, expected, decoded):
    for _ in range(2):
        data = load(folder)
        for _ in range(2):
            assert same(everything(data), expected)
    assert len(decoded) == 70


def test_content_and_size_decide_not_names_or_means(folder, cache, decoded):
    load(folder)
    load(folder, preprocess=Preprocess(size=(4, 4), mean=(0.1,), std=(0.2,)))
    folder.rename(folder.with_name("moved"))
    folder = folder.with_name("moved")
    assert len(decoded) == 70
    load(folder)
    assert len(decoded) == 70
    load(folder, preprocess=Preprocess(size=(4, 5)))
    assert len(decoded) == 140
    os.replace(folder / "train/a/0001.png", folder / "train/a/0000.png")
    load(folder)
    assert len(decoded) == 209
    assert len(caches(cache)) == 3


def test_unreadable_images_are_remembered_with_the_others(make_folder, progress, decoded):
    folder = make_folder({"a": 70, "b": 70})
    (folder / "a" / "0003.png").write_bytes(b"no image")
    first = load(folder)
    count = len(decoded)
    again = load(folder, progress)
    assert again.skipped == first.skipped == ("a/0003.png: not an image",)
    assert len(again.train) == len(first.train)
    assert same(everything(again), everything(first))
    assert len(decoded) == count == 139


def test_a_damaged_row_is_noticed_and_mended(folder, expected, cache, decoded):
    load(folder)
    (pixels,) = (path / "pixels" for path in caches(cache))
    content = bytearray(pixels.read_bytes())
    content[7 * ROW + 3] ^= 1
    pixels.write_bytes(content)
    assert same(everything(load(folder)), expected)
    assert len(decoded) == 71
    assert same(everything(load(folder)), expected)
    assert len(decoded) == 71


def cut(path):
    (path / "pixels").write_bytes((path / "pixels").read_bytes()[:-1])


def lose(path):
    (path / "pixels").unlink()


def write_nonsense(path):
    (path / "index.json").write_text('{"shape": [70]}')


def swap_checks(path):
    checks = np.load(path / "checks.npy")
    np.save(path / "checks.npy", checks[::-1])


def empty_checks(path):
    (path / "checks.npy").write_bytes(b"")


@pytest.mark.parametrize("damage", [cut, lose, write_nonsense, swap_checks, empty_checks])
def test_a_damaged_cache_is_made_again(folder, expected, cache, decoded, damage):
    load(folder)
    (path,) = caches(cache)
    damage(path)
    assert same(everything(load(folder)), expected)
    assert len(decoded) == 140
    assert same(everything(load(folder)), expected)
    assert len(decoded) == 140


def test_old_caches_go_before_the_limit_is_passed(make_folder, cache, monkeypatch):
    folders = [make_folder({"a": 20 + n, "b": 20}, root=f"set{n}") for n in range(3)]
    load(folders[0])
    (first,) = caches(cache)
    load(folders[1])
    os.utime(first / "index.json", (1, 1))
    load(folders[0])  # used again: the other one is now the oldest
    (second,) = set(caches(cache)) - {first}
    os.utime(second / "index.json", (2, 2))
    monkeypatch.setenv(edgeopt.data.decoded.LIMIT_VARIABLE, f"{3 * 40 * ROW}")
    load(folders[2])
    assert first in caches(cache)
    assert second not in caches(cache)
    assert len(caches(cache)) == 2


def test_what_is_larger_than_the_limit_is_decoded_anew_and_said(folder, expected, cache, progress, monkeypatch):
    monkeypatch.setenv(edgeopt.data.decoded.LIMIT_VARIABLE, "2KB")
    assert same(everything(load(folder, progress)), expected)
    assert "the limit is 2 KB" in progress.warnings[0]
    assert caches(cache) == []


@pytest.mark.parametrize("value", ["0", "0GB"])
def test_the_cache_can_be_turned_off(folder, expected, cache, progress, monkeypatch, value):
    monkeypatch.setenv(edgeopt.data.decoded.LIMIT_VARIABLE, value)
    assert same(everything(load(folder, progress)), expected)
    assert list(cache.iterdir()) == []
    assert progress.warnings == []


def test_a_limit_that_is_no_size_is_refused(folder, progress, monkeypatch):
    monkeypatch.setenv(edgeopt.data.decoded.LIMIT_VARIABLE, "much")
    with pytest.raises(UsageError, match="'much' is not a size"):
        open_or_write("key", (1, 2), lambda writer: {}, progress)


def test_a_folder_that_cannot_be_written_stops_nothing(folder, expected, cache, progress):
    (cache / "decoded").write_text("a file where the folder should be")
    assert same(everything(load(folder, progress)), expected)
    assert "cannot be kept" in progress.warnings[0]


def test_a_full_disk_leaves_nothing_half_written(folder, expected, cache, progress, monkeypatch):
    put, calls = edgeopt.data.decoded.Writer.put, []

    def fail(self, at, row):
        calls.append(at)
        if len(calls) == 40:
            raise OSError(28, "No space left on device")
        put(self, at, row)

    monkeypatch.setattr(edgeopt.data.decoded.Writer, "put", fail)
    assert same(everything(load(folder, progress)), expected)
    assert "No space left" in progress.warnings[0]
    assert [path.name for path in (cache / "decoded").iterdir() if path.is_dir()] == []


def test_a_split_goes_to_another_process_without_its_pixels(folder, expected):
    data = load(folder)
    content = pickle.dumps(data.train)
    assert len(content) < 70 * ROW * 10
    assert np.array_equal(pickle.loads(content).raw(np.arange(60)), expected[0])
    for path in data.train.source._decoded.folder.iterdir():
        path.unlink()
    assert np.array_equal(pickle.loads(content).raw(np.arange(60)), expected[0])


def _slow_load(folder, started, results):
    """In a process of its own: loads, slowly, and says how many images it decoded itself."""
    edgeopt.data.memory.MEMORY_BUDGET = 0
    fit, done = edgeopt.data.images.fit_image, []

    def slowly(*arguments):
        done.append(1)
        started.set()
        time.sleep(0.02)
        return fit(*arguments)

    edgeopt.data.images.fit_image = slowly
    images = everything(load(folder))
    results.put((len(done), [array.tobytes() for array in images]))


def test_two_runs_at_once_decode_once(folder, expected):
    context = multiprocessing.get_context("fork")
    started, results = context.Event(), context.Queue()
    processes = [context.Process(target=_slow_load, args=(folder, started, results)) for _ in range(2)]
    for process in processes:
        process.start()
    found = [results.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    assert sorted(count for count, _ in found) == [0, 70]
    for _, images in found:
        assert images == [array.tobytes() for array in expected]


def test_a_killed_run_leaves_no_lock_and_nothing_in_the_next_ones_way(folder, expected, cache, decoded):
    context = multiprocessing.get_context("fork")
    started = context.Event()
    process = context.Process(target=_slow_load, args=(folder, started, context.Queue()))
    process.start()
    assert started.wait(60)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert list((cache / "decoded").glob(".*.tmp"))
    assert same(everything(load(folder)), expected)
    assert len(decoded) == 70
    assert not list((cache / "decoded").glob(".*.tmp"))
