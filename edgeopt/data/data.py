"""What every stage is handed: three splits that never overlap with the test images."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from edgeopt.data.preprocess import normalize
from edgeopt.data.split import balanced_order
from edgeopt.model import Preprocess

__all__ = ["Batch", "Data", "Source", "Split"]


class Source(Protocol):
    """Where samples lie: an array, a folder of files, a torchvision data set."""

    def __len__(self) -> int: ...

    def read(self, indices: np.ndarray) -> np.ndarray:
        """Samples as one array: uint8 [n, H, W, C] already resized and cropped, or float32 model-ready."""


@dataclass(frozen=True)
class Batch:
    """`x` float32 in the model's layout, [n, ...]; `y` int64 [n] or None; `index` [n] within the split."""

    x: np.ndarray
    y: np.ndarray | None
    index: np.ndarray


@dataclass(frozen=True)
class Split:
    """Some samples of a source, in a fixed order."""

    source: Source
    index: np.ndarray
    """int64 [n]: which samples of the source, in order."""
    labels: np.ndarray | None
    """int64 [n] class numbers, or None when there are none."""
    preprocess: Preprocess | None
    """None: the source is model-ready float32 and passes unchanged."""

    def __len__(self) -> int:
        return len(self.index)

    def raw(self, positions: np.ndarray) -> np.ndarray:
        """Undecorated samples at `positions` of this split: uint8 [n, H, W, C] or model-ready float32."""
        return self.source.read(self.index[positions])

    def read(self, positions: np.ndarray) -> Batch:
        """The samples at `positions` of this split, model-ready."""
        raw = self.raw(positions)
        x = raw if self.preprocess is None else normalize(raw, self.preprocess)
        return Batch(x, None if self.labels is None else self.labels[positions], positions)

    def batches(self, size: int) -> Iterator[Batch]:
        """Every sample once, in order, `size` at a time (the last batch may be smaller).

        While the caller works on one batch a thread reads the next: two batches are in memory, never more.
        """
        starts = range(0, len(self), size)
        parts = [np.arange(start, min(start + size, len(self))) for start in starts]
        with ThreadPoolExecutor(1, "edgeopt-batches") as reader:
            coming = reader.submit(self.read, parts[0]) if parts else None
            for following in [*parts[1:], None]:
                if coming is None:
                    return
                batch = coming.result()
                coming = None if following is None else reader.submit(self.read, following)
                yield batch

    def sample(self, count: int, seed: int) -> Split:
        """At most `count` of the samples, chosen by `seed`, balanced over the classes where there are labels.

        The classes take turns, so that the first k of the samples are balanced too.
        """
        return self.take(balanced_order(len(self), self.labels, np.random.default_rng(seed))[:count])

    def take(self, positions: np.ndarray) -> Split:
        """The samples at `positions`, in that order, as a split of the same source."""
        labels = None if self.labels is None else self.labels[positions]
        return Split(self.source, self.index[positions], labels, self.preprocess)


@dataclass(frozen=True)
class Data:
    """Splits of one data set. Calibration samples are training images, never test images."""

    name: str
    train: Split
    calibration: Split
    test: Split
    labels: tuple[str, ...]
    """Class names; empty for unlabelled data: fidelity to the float model then stands in for accuracy."""
    preprocess: Preprocess | None
    fingerprint: str
    """SHA-256 of the samples' content, labels, splits and preprocessing; file times do not count."""
    skipped: tuple[str, ...] = ()
    """Files that could not be decoded and were left out (below 1 %)."""
