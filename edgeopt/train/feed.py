"""Batches for training: samples lie in memory as they were decoded (uint8), the rest happens per batch.

No worker processes: for images up to some hundred pixels one gather, one conversion and a few tensor
operators per batch cost less than handing a batch over between processes. A source that does not fit is read
ahead by one thread.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from edgeopt.data import Split
from edgeopt.errors import UsageError
from edgeopt.machine import memory_bytes
from edgeopt.model import Preprocess
from edgeopt.train.augment import crop_and_flip, erase, rand_augment, warp
from edgeopt.train.settings import Augment

__all__ = ["Feed", "Held", "Streamed", "check_augment", "open_feed", "prepare"]

MEMORY_SHARE = 0.25
"""Largest share of the machine's memory (or of the GPU's) that decoded samples may take."""
READ_AT_ONCE = 2048
READ_AHEAD = 4

Pair = tuple[Tensor, Tensor | None]


class Feed(Protocol):
    """Yields raw samples, uint8 [n, H, W, C] or model-ready float32, with int64 [n] labels or None."""

    def batches(self, order: Sequence[np.ndarray] | np.ndarray) -> Iterator[Pair]:
        """One pair for each row of `order`, int64 [batch] positions in the split."""
        ...


def open_feed(split: Split, device: torch.device) -> Feed:
    """The whole split in memory (the GPU's, where it fits), or a feed that reads ahead."""
    size = len(split) * split.raw(np.arange(1)).nbytes
    if size > MEMORY_SHARE * memory_bytes():
        return Streamed(split, device)
    on_gpu = device.type == "cuda" and size < MEMORY_SHARE * torch.cuda.mem_get_info(device)[1]
    return Held(split, device, device if on_gpu else torch.device("cpu"))


class Held:
    """All samples in one tensor."""

    def __init__(self, split: Split, device: torch.device, home: torch.device) -> None:
        first = split.raw(np.arange(1))
        held = np.empty((len(split), *first.shape[1:]), first.dtype)
        for start in range(0, len(split), READ_AT_ONCE):
            part = np.arange(start, min(start + READ_AT_ONCE, len(split)))
            held[part] = split.raw(part)
        self.samples = torch.from_numpy(held).to(home)
        self.labels = None if split.truth is None else torch.from_numpy(split.truth).to(home)
        self.device, self.home = device, home

    def batches(self, order: Sequence[np.ndarray] | np.ndarray) -> Iterator[Pair]:
        """See Feed."""
        if not len(order):
            return
        rows = torch.from_numpy(np.concatenate(order)).to(self.home)
        for row in rows.split([len(row) for row in order]):
            labels = None if self.labels is None else self.labels[row].to(self.device)
            yield self.samples[row].to(self.device), labels


class Streamed:
    """Samples read while the step before computes, by one thread, `READ_AHEAD` batches in advance."""

    def __init__(self, split: Split, device: torch.device) -> None:
        self.split, self.device = split, device

    def batches(self, order: Sequence[np.ndarray] | np.ndarray) -> Iterator[Pair]:
        """See Feed. An error while reading is raised here."""
        ready: queue.Queue[np.ndarray | BaseException] = queue.Queue(READ_AHEAD)
        stop = threading.Event()
        reader = threading.Thread(target=self._read, args=(order, ready, stop), daemon=True)
        reader.start()
        try:
            for row in order:
                samples = ready.get()
                if isinstance(samples, BaseException):
                    raise samples
                labels = None if self.split.truth is None else torch.from_numpy(self.split.truth[row])
                yield (
                    torch.from_numpy(samples).to(self.device),
                    None if labels is None else labels.to(self.device),
                )
        finally:
            stop.set()
            while reader.is_alive():  # it may be waiting for room
                _drain(ready)
                reader.join(0.05)

    def _read(self, order: Sequence[np.ndarray] | np.ndarray, ready: queue.Queue[Any], stop: threading.Event) -> None:
        try:
            for row in order:
                if stop.is_set():
                    return
                ready.put(np.ascontiguousarray(self.split.raw(row)))
        except BaseException as error:
            ready.put(error)


def check_augment(split: Split, augment: Augment, where: str) -> None:
    """Raise UsageError where `augment` wants samples or labels of another kind."""
    if augment.active and split.raw(np.arange(1)).ndim != 4:
        raise UsageError("augmentation needs images, these samples are none", where=where, fix="leave `augment` out")
    if augment.randaugment is not None and split.preprocess is None:
        raise UsageError(
            "randaugment needs pixels, these images are model-ready floats", where=where, fix="leave `randaugment` out"
        )
    if augment.mixes and split.boxes is not None:
        raise UsageError("mixup and cutmix mix classes, these labels are boxes", where=where, fix="leave them out")
    if augment.moves and split.boxes is not None:
        raise UsageError(
            "augmentation that moves pixels would leave the boxes behind", where=where, fix="leave all but `erase` out"
        )


def prepare(samples: Tensor, preprocess: Preprocess | None, augment: Augment) -> Tensor:
    """Augmented, normalised float32 in the model's layout: the torch twin of `edgeopt.data`'s preprocessing.

    `samples` is uint8 [n, H, W, C]; without `preprocess` model-ready float32, images as [n, C, H, W].
    """
    if preprocess is None:
        return _augment_ready(samples, augment)
    pixels = crop_and_flip(samples, augment.crop_pad, augment.flip)
    if augment.randaugment is not None:
        pixels = rand_augment(pixels, augment.randaugment)
    x = pixels.permute(0, 3, 1, 2).float()
    if augment.warps:
        x = warp(x, augment)
    x = _normalize(x, preprocess)
    if augment.erase:
        x = erase(x, augment.erase)
    return x.permute(0, 2, 3, 1) if preprocess.layout == "NHWC" else x


def _augment_ready(samples: Tensor, augment: Augment) -> Tensor:
    x = samples.float()
    if not augment.active or x.ndim != 4:
        return x
    x = crop_and_flip(x.permute(0, 2, 3, 1), augment.crop_pad, augment.flip).permute(0, 3, 1, 2)
    if augment.warps:
        x = warp(x, augment)
    return erase(x, augment.erase) if augment.erase else x


def _normalize(x: Tensor, preprocess: Preprocess) -> Tensor:
    """(x * scale - mean) / std on [n, C, H, W], in place, step by step as `edgeopt.data.normalize`."""
    mean, std = np.asarray(preprocess.mean, np.float64), np.asarray(preprocess.std, np.float64)
    gain, offset = np.broadcast_arrays(preprocess.scale / std, -mean / std)
    return x.mul_(_per_channel(gain, x)).add_(_per_channel(offset, x))


def _per_channel(values: np.ndarray, like: Tensor) -> Tensor:
    return torch.from_numpy(values.astype(np.float32)).view(1, -1, 1, 1).to(like.device)


def _drain(ready: queue.Queue[np.ndarray | BaseException]) -> None:
    while not ready.empty():
        ready.get_nowait()
