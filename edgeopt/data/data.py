"""What every stage is handed: three splits that never overlap with the test images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from edgeopt.data.preprocess import normalize
from edgeopt.data.split import balanced_order
from edgeopt.errors import UsageError
from edgeopt.model import Preprocess

__all__ = ["CLASS", "CROWD", "PADDING", "Batch", "Data", "Rows", "Source", "Split", "feeds_of", "single_array"]

Rows = np.ndarray | Mapping[str, np.ndarray]
"""Samples as one array [n, ...], or for a model with several inputs one such array for each, by input name."""

CLASS, CROWD = 4, 5
"""Columns of a box after x1, y1, x2, y2: the number of its class, and whether it is a crowd, which may be found any
number of times."""
PADDING = -1
"""The class of rows that are no box."""


class Source(Protocol):
    """Where samples lie: an array, a folder of files, a torchvision data set."""

    def __len__(self) -> int: ...

    def read(self, indices: np.ndarray) -> Rows:
        """Samples as one array: uint8 [n, H, W, C] already resized and cropped, or float32 model-ready. Those of a
        model with several inputs, or of integers, as model-ready arrays by input name."""


@dataclass(frozen=True)
class Batch:
    """`rows` in the model's layout; `y` int64 [n] or None; `index` [n] within the split."""

    rows: Rows
    y: np.ndarray | None
    index: np.ndarray

    def __len__(self) -> int:
        return len(self.index)

    @property
    def x(self) -> np.ndarray:
        """The one array [n, ...]. Raises UsageError where the samples have several."""
        return single_array(self.rows)

    def feeds(self, names: Sequence[str]) -> dict[str, np.ndarray]:
        """What the inputs called `names` are fed, see `feeds_of`."""
        return feeds_of(self.rows, names)


@dataclass(frozen=True)
class Split:
    """Some samples of a source, in a fixed order."""

    source: Source
    index: np.ndarray
    """int64 [n]: which samples of the source, in order."""
    labels: np.ndarray | None
    """int64 [n] class numbers, or None when there are none."""
    preprocess: Preprocess | None
    """None: the source is model-ready and passes unchanged."""
    boxes: np.ndarray | None = None
    """float32 [n, most, 6] where an image is labelled with boxes: x1, y1, x2, y2 in pixels of the model's input, class
    number (PADDING: no box), crowd. `labels` then is None."""

    def __len__(self) -> int:
        return len(self.index)

    @property
    def truth(self) -> np.ndarray | None:
        """What is to be learned: `labels`, or `boxes`, or None."""
        return self.labels if self.boxes is None else self.boxes

    def raw(self, positions: np.ndarray) -> np.ndarray:
        """Undecorated samples at `positions` of this split: uint8 [n, H, W, C] or model-ready float32.

        Raises UsageError where a sample is several arrays.
        """
        return single_array(self.source.read(self.index[positions]))

    def read(self, positions: np.ndarray) -> Batch:
        """The samples at `positions` of this split, model-ready."""
        rows = self.source.read(self.index[positions])
        if self.preprocess is not None:
            rows = normalize(single_array(rows), self.preprocess)
        return Batch(rows, None if self.labels is None else self.labels[positions], positions)

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
        boxes = None if self.boxes is None else self.boxes[positions]
        return Split(self.source, self.index[positions], labels, self.preprocess, boxes)


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


def feeds_of(rows: Rows, names: Sequence[str]) -> dict[str, np.ndarray]:
    """What a model's inputs are fed: one array goes to the only input, whatever its name; others go by name.

    Raises UsageError naming the input that the samples have nothing for.
    """
    if isinstance(rows, Mapping):
        missing = [name for name in names if name not in rows]
        if not missing:
            return {name: rows[name] for name in names}
        raise UsageError(f"the samples hold {', '.join(rows)}, and nothing for the input {missing[0]!r}")
    if len(names) == 1:
        return {names[0]: rows}
    raise UsageError(
        f"the model has {len(names)} inputs ({', '.join(names)}), the samples are one array",
        fix="give an .npz with an array for each input, by its name",
    )


def single_array(rows: Rows) -> np.ndarray:
    """The one array that `rows` is. Raises UsageError where a sample is several arrays, or none of floats."""
    if isinstance(rows, Mapping):
        raise UsageError(
            f"the samples are arrays by input name ({', '.join(rows)}), and this needs one array of floats or images",
            fix="leave out the stages that train: they take networks of one such input",
        )
    return rows
