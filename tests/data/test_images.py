"""Image files: what is unreadable is found, named and counted; memory stays bounded."""

import io
import shutil
import threading

import numpy as np
import pytest
from PIL import Image

import edgeopt.data.images
import edgeopt.data.memory
from edgeopt.data import DataSpec, load_data
from edgeopt.errors import UsageError
from edgeopt.model import Preprocess

SMALL = Preprocess(size=(4, 4))


def load(folder, progress=None, **settings):
    others = {} if progress is None else {"progress": progress}
    return load_data(DataSpec(source=str(folder), preprocess=SMALL, **settings), **others)


def own_threads() -> list[str]:
    """Names of the threads that edgeopt started and that still live (libraries keep some of their own)."""
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("edgeopt")]


def read_all(split, size=7):
    return np.concatenate([batch.x for batch in split.batches(size)])


@pytest.fixture
def lazily(monkeypatch):
    """No room in memory, none on disk: pixels are decoded each time they are read."""
    monkeypatch.setattr(edgeopt.data.memory, "MEMORY_BUDGET", 0)
    monkeypatch.setenv("EDGEOPT_CACHE_LIMIT", "0")


@pytest.fixture
def big(make_folder):
    return make_folder({"train/a": 60, "train/b": 60, "test/a": 10, "test/b": 10})


def cut_short(path):
    path.write_bytes(path.read_bytes()[:-30])


def fill_with_noise(path):
    path.write_bytes(np.random.default_rng(0).bytes(500))


def empty(path):
    path.write_bytes(b"")


def change_a_byte(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(bytes(content))


def link_to_nothing(path):
    path.unlink()
    path.symlink_to("nowhere")


@pytest.mark.parametrize("damage", [cut_short, fill_with_noise, empty, change_a_byte, link_to_nothing])
@pytest.mark.parametrize("memory", ["kept", "lazily"])
def test_a_damaged_image_is_named_counted_and_left_out(big, progress, request, damage, memory):
    if memory == "lazily":
        request.getfixturevalue("lazily")
    damage(big / "train" / "a" / "0007.png")
    data = load(big, progress)
    assert len(data.train) == 119
    assert read_all(data.train).shape == (119, 3, 4, 4)
    (skipped,) = data.skipped
    assert skipped.startswith("train/a/0007.png: ")
    (warning,) = progress.warnings
    assert "1 unreadable image(s)" in warning
    assert skipped in warning
    assert progress.done == progress.announced == 280


@pytest.mark.parametrize("memory", ["kept", "lazily"])
def test_a_damaged_jpeg_is_found_whether_or_not_its_pixels_are_kept(make_folder, request, memory):
    if memory == "lazily":
        request.getfixturevalue("lazily")
    root = make_folder({"a": 80, "b": 80}, size=(40, 40), ending=".jpg")
    cut_short(root / "a" / "0001.jpg")
    assert [entry.split(":")[0] for entry in load(root).skipped] == ["a/0001.jpg"]


def test_one_percent_is_too_much_and_the_first_are_named(big):
    for number in (1, 2):
        cut_short(big / "train" / "b" / f"000{number}.png")
    with pytest.raises(UsageError, match=r"2 of 140 images cannot be read \(train/b/0001.png: .*; train/b/0002"):
        load(big)


def test_a_decompression_bomb_is_not_decoded(big, progress, monkeypatch):
    monkeypatch.setattr(edgeopt.data.images, "MAX_PIXELS", 1000)
    Image.new("1", (50, 21)).save(big / "train" / "a" / "0000.png")
    assert "50 x 21 pixels are over the limit of 1,000" in load(big, progress).skipped[0]


def test_copies_of_test_images_are_left_out_of_training(big, progress):
    for number in (3, 4):
        shutil.copy(big / "test" / "b" / f"000{number}.png", big / "train" / "a" / f"copy{number}.png")
    data = load(big, progress)
    assert len(data.train) == 120
    assert len(data.test) == 20
    assert progress.warnings[0].startswith("2 training image(s) left out")
    names = [data.train.source.name(i) for i in data.calibration.index]
    assert not any("copy" in name for name in names)


def test_reading_lazily_gives_the_same_images(big, monkeypatch):
    kept = read_all(load(big).train)
    monkeypatch.setattr(edgeopt.data.memory, "MEMORY_BUDGET", 0)
    lazy = load(big).train
    assert not lazy.source.keeps
    assert np.array_equal(read_all(lazy), kept)


def test_threads_give_the_same_images(big, monkeypatch):
    one = read_all(load(big).train)
    monkeypatch.setattr(edgeopt.data.images, "THREADED_FROM_BYTES", 0)
    monkeypatch.setattr(edgeopt.data.images, "cpu_count", lambda: 3)
    data = load(big)
    assert np.array_equal(read_all(data.train), one)
    assert not own_threads()


def test_lazy_batches_hold_two_batches_at_most(big, lazily, monkeypatch):
    """Counted at the decoder: never more images decoded than the batch in hand and the one after it."""
    split, decoded = load(big).train, []
    fit = edgeopt.data.images.fit_image
    monkeypatch.setattr(edgeopt.data.images, "fit_image", lambda *a: decoded.append(1) or fit(*a))
    for number, batch in enumerate(split.batches(8), start=1):
        assert len(batch.x) == 8
        assert len(decoded) <= 8 * (number + 1)
    assert len(decoded) == 120
    assert split.source._kept is None


def test_kept_images_are_decoded_once(big, monkeypatch):
    decoded = []
    fit = edgeopt.data.images.fit_image
    monkeypatch.setattr(edgeopt.data.images, "fit_image", lambda *a: decoded.append(1) or fit(*a))
    data = load(big)
    for _ in range(2):
        read_all(data.train)
    assert len(decoded) == 140


def test_leaving_a_loop_early_ends_the_reader(big):
    for _ in load(big).train.batches(4):
        break
    assert not own_threads()


def test_a_file_that_vanishes_later_is_named(big, lazily):
    data = load(big)
    (big / "test" / "a" / "0002.png").unlink()
    with pytest.raises(UsageError, match=r"0002.png: cannot be read any more \(No such file"):
        read_all(data.test)


def test_long_work_is_remembered_by_content(big, cache, monkeypatch):
    monkeypatch.setattr(edgeopt.data.images, "REMEMBER_FROM_S", 0)
    cut_short(big / "train" / "a" / "0007.png")
    first = load(big)
    looked = []
    monkeypatch.setattr(edgeopt.data.images.ImageFiles, "_decode_to_keep", lambda *a: looked.append(1))
    again = load(big)
    assert looked == []
    assert again.skipped == first.skipped
    assert again.fingerprint == first.fingerprint
    assert np.array_equal(read_all(again.train), read_all(first.train))
    cut_short(big / "test" / "a" / "0001.png")
    load(big)
    assert len(looked) == 140


def test_a_damaged_memory_is_not_believed(big, cache, monkeypatch):
    monkeypatch.setattr(edgeopt.data.images, "REMEMBER_FROM_S", 0)
    load(big)
    (file,) = (cache / "unreadable").iterdir()
    for content in ("", "[1, 2]", '{"x": "y"}', "\x00"):
        file.write_text(content)
        assert len(load(big).train) == 120


def test_a_cache_that_cannot_be_written_stops_nothing(big, cache, monkeypatch):
    monkeypatch.setattr(edgeopt.data.images, "REMEMBER_FROM_S", 0)
    (cache / "unreadable").write_text("a file where the folder should be")
    assert len(load(big).train) == 120


def test_short_work_leaves_nothing_behind(big, cache):
    load(big)
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize("ending", [".jpg", ".png", ".bmp", ".webp", ".ppm", ".tif", ".gif"])
def test_formats(make_folder, ending):
    assert len(load(make_folder({"a": 3, "b": 3}, ending=ending)).skipped) == 0


def test_pixels_are_those_of_the_file(make_folder):
    root = make_folder({"a": 3, "b": 3}, size=(4, 4))
    data = load(root)
    for position, index in enumerate(data.train.index):
        with Image.open(root / data.train.source.name(index)) as image:
            expected = np.asarray(image)
        assert np.array_equal(data.train.raw(np.array([position]))[0], expected)


def test_an_image_that_claims_too_much_never_reaches_the_decoder(big, progress):
    """A PNG header of 60,000 x 60,000 pixels in front of a few bytes."""
    buffer = io.BytesIO()
    Image.new("1", (8, 8)).save(buffer, "png")
    content = bytearray(buffer.getvalue())
    content[16:24] = (60_000).to_bytes(4, "big") * 2
    import zlib

    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    (big / "train" / "a" / "0000.png").write_bytes(content)
    assert "pixels" in load(big, progress).skipped[0]
