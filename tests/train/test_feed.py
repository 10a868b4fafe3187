import threading
from dataclasses import replace

import numpy as np
import pytest
import torch

from edgeopt.data import normalize
from edgeopt.model import Preprocess
from edgeopt.train import Augment, feed
from edgeopt.train.feed import Held, Streamed, open_feed, prepare

CPU = torch.device("cpu")
ORDER = np.random.default_rng(0).permutation(192).reshape(12, 16)


@pytest.mark.parametrize(
    "preprocess",
    [
        Preprocess(size=(6, 6), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
        Preprocess(size=(6, 6), mean=(0.5,), std=(0.25,), layout="NHWC"),
        Preprocess(size=(6, 6), color="gray", scale=1 / 16),
    ],
)
def test_batches_are_normalised_to_the_bit_as_everywhere_else(preprocess):
    raw = np.random.default_rng(0).integers(0, 256, (5, 6, 4, preprocess.channels), dtype=np.uint8)
    x = prepare(torch.from_numpy(raw), preprocess, Augment())
    np.testing.assert_array_equal(x.numpy(), normalize(raw, preprocess))


def test_model_ready_samples_pass_unchanged():
    samples = torch.randn(4, 3, 6, 6)
    assert torch.equal(prepare(samples, None, Augment()), samples)
    assert prepare(samples, None, Augment(crop_pad=1, flip=True, shift=1, erase=1)).shape == samples.shape


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_black_stays_black_when_images_move(layout):
    """What comes in at the border is a black pixel, whatever mean and std are."""
    preprocess = Preprocess(size=(6, 6), mean=(0.5,), std=(0.25,), layout=layout)
    black = torch.zeros(4, 6, 6, 3, dtype=torch.uint8)
    x = prepare(black, preprocess, Augment(crop_pad=2, flip=True, shift=2, rotate=30, zoom=0.3))
    assert torch.equal(x, torch.full_like(x, -2.0))


def test_streamed_and_held_samples_are_the_same(split):
    held, streamed = Held(split, CPU, CPU), Streamed(split, CPU)
    pairs = list(zip(held.batches(ORDER), streamed.batches(ORDER), strict=True))
    assert len(pairs) == 12
    for row, (one, other) in zip(ORDER, pairs, strict=True):
        assert torch.equal(one[0], other[0])
        assert torch.equal(one[1], other[1])
        np.testing.assert_array_equal(one[0].numpy(), split.raw(row))
        np.testing.assert_array_equal(one[1].numpy(), split.labels[row])


def test_what_does_not_fit_in_memory_is_streamed(split, monkeypatch):
    assert isinstance(open_feed(split, CPU), Held)
    monkeypatch.setattr(feed, "memory_bytes", lambda: 4 * 192 * 36 - 1)
    assert isinstance(open_feed(split, CPU), Streamed)


def test_a_reading_error_comes_out_where_batches_are_taken(split):
    class Broken:
        def __len__(self):
            return 192

        def read(self, indices):
            raise OSError("disk gone")

    with pytest.raises(OSError, match="disk gone"):
        list(Streamed(replace(split, source=Broken()), CPU).batches(ORDER))


def test_a_reader_ends_when_nobody_listens_any_more(split):
    before = threading.active_count()
    batches = Streamed(split, CPU).batches(ORDER)
    next(batches)
    batches.close()
    assert threading.active_count() == before
