"""Map-style datasets: torchvision's, and those that a user's function returns.

`dataset[i]` is (image, class number); the image is a PIL image, a uint8 array [H, W] or [H, W, C], or a float
tensor as the model takes it, the same kind throughout. Where all samples fit in memory they are read once,
when the data is loaded, and every one is part of the fingerprint. Where not, they are read batch by batch;
then the class numbers come from `dataset.targets` (or `labels`) if it has them, and 64 images spread evenly
stand for all in the fingerprint.
"""

from __future__ import annotations

import hashlib
import operator
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from edgeopt.data.arrays import CHUNK, check_labels
from edgeopt.data.memory import Kept
from edgeopt.data.origin import Inspection, digest_rows
from edgeopt.data.preprocess import fit_image
from edgeopt.errors import UsageError
from edgeopt.model import Preprocess
from edgeopt.progress import Progress
from edgeopt.usercode import call_user_code

__all__ = ["MappedOrigin"]

SAMPLED = 64
"""Images that stand for all in the fingerprint of a data set that does not fit in memory."""
LABEL_FIELDS = ("targets", "labels", "_labels")
"""Where torchvision's classes keep the class numbers."""


class MappedImages(Kept):
    """Source over one or two datasets, one behind the other; read by one thread at a time."""

    def __init__(self, datasets: tuple[Any, ...], where: str, preprocess: Preprocess | None) -> None:
        self.datasets, self.where, self.preprocess = datasets, where, preprocess
        self.lengths = [count_of(dataset, where) for dataset in datasets]
        self._lock = threading.Lock()
        if preprocess is None:
            shape, dtype = first_image(datasets[0], where).shape, "float32"
        else:
            shape, dtype = (*preprocess.size, preprocess.channels), "uint8"
        super().__init__(sum(self.lengths), shape, np.dtype(dtype))

    def __getstate__(self) -> dict[str, Any]:
        """For another process, which locks for itself."""
        return {name: value for name, value in vars(self).items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _lock=threading.Lock())

    def read_many(self, indices: np.ndarray) -> Iterator[np.ndarray]:
        """Samples in order. Raises UsageError naming the sample that is not like the first one."""
        for index in indices.tolist():
            yield self.item(index)[0]

    def item(self, index: int) -> tuple[np.ndarray, Any]:
        """One sample and its class number, as the dataset gives it."""
        which = 0 if index < self.lengths[0] else 1
        at = index - which * self.lengths[0]
        with self._lock:
            image, label = get_item(self.datasets[which], at, self.where)
        sample = self._fit(image, f"{self.where}[{at}]")
        if sample.shape != self._shape:
            raise UsageError(f"is {list(sample.shape)}, the first one {list(self._shape)}", where=f"{self.where}[{at}]")
        return sample, label

    def _fit(self, image: Any, where: str) -> np.ndarray:
        if self.preprocess is not None:
            try:
                return fit_image(as_pil(image, where), self.preprocess)
            except (OSError, ValueError, TypeError) as error:
                raise UsageError(f"is no image ({' '.join(str(error).split())[:120]})", where=where) from error
        sample = np.asarray(image)
        if sample.dtype.kind != "f" or not np.isfinite(sample).all():
            raise UsageError(f"is {sample.dtype}, or not finite; the first one is float", where=where)
        return sample.astype(np.float32)


@dataclass(frozen=True)
class MappedSamples:
    """Opened datasets."""

    source: MappedImages
    labels: np.ndarray
    classes: tuple[str, ...]
    test: np.ndarray | None
    boxes: None = None

    def inspect(self, indices: np.ndarray, progress: Progress) -> Inspection:
        """Digests of all samples where they fit in memory, else of SAMPLED of them."""
        looked_at = indices
        if not self.source.keeps:
            looked_at = indices[np.unique(np.linspace(0, len(indices) - 1, SAMPLED).astype(np.int64))]
        progress.start("reading images", len(looked_at))
        digests = []
        for at in range(0, len(looked_at), CHUNK):
            part = looked_at[at : at + CHUNK]
            digests.append(digest_rows(self.source.read(part)))
            progress.advance(len(part))
        joined = np.concatenate(digests)
        content = hashlib.sha256(joined.tobytes()).hexdigest()
        return Inspection(joined if self.source.keeps else None, content)


@dataclass(frozen=True)
class MappedOrigin:
    """A training dataset and, where there is one, a test dataset. `where` names them in messages."""

    name: str
    where: str
    datasets: tuple[Any, ...] = field(repr=False)
    classes: tuple[str, ...] = ()

    @cached_property
    def _first(self) -> np.ndarray | Any:
        return get_item(self.datasets[0], 0, self.where)[0]

    @property
    def model_ready(self) -> bool:
        return not _is_pil(self._first) and np.asarray(self._first).dtype.kind == "f"

    @property
    def preprocess(self) -> Preprocess | None:
        """Datasets do not say."""
        return None

    def guess_preprocess(self) -> Preprocess | None:
        """The size of the first image."""
        image = as_pil(self._first, f"{self.where}[0]")
        color = "gray" if image.mode in ("1", "L") else "rgb"
        return Preprocess.model_validate({"size": (image.height, image.width), "color": color})

    def open(self, preprocess: Preprocess | None, progress: Progress) -> MappedSamples:
        """Class numbers are read here, with all the samples where the dataset has no list of them."""
        source = MappedImages(self.datasets, self.where, preprocess)
        labels = self._listed_labels(source.lengths)
        if labels is None:
            labels = self._read_labels(source, progress)
        test = np.arange(len(source)) >= source.lengths[0] if len(self.datasets) > 1 else None
        return MappedSamples(source, labels, self.classes, test)

    def _listed_labels(self, lengths: list[int]) -> np.ndarray | None:
        """Class numbers from the datasets' own lists, if all have one that agrees with what items say."""
        parts = []
        for dataset, length in zip(self.datasets, lengths, strict=True):
            listed = next((v for n in LABEL_FIELDS if (v := getattr(dataset, n, None)) is not None), None)
            if not _is_list_of_numbers(listed, length):
                return None
            numbers = np.asarray(listed).astype(np.int64)
            # A target_transform changes what items say, and not the list.
            if any(_number(get_item(dataset, at, self.where)[1], self.where) != numbers[at] for at in (0, length - 1)):
                return None
            parts.append(numbers)
        return check_labels(np.concatenate(parts), sum(lengths), self.where)

    def _read_labels(self, source: MappedImages, progress: Progress) -> np.ndarray:
        numbers = np.empty(len(source), np.int64)
        for index in progress.track(range(len(source)), "reading images", len(source)):
            sample, label = source.item(index)
            numbers[index] = _number(label, self.where)
            if source.keeps:
                source.put(index, sample)
        return check_labels(numbers, len(source), self.where)


def count_of(dataset: Any, where: str) -> int:
    """Length of a map-style dataset. Raises UsageError when it is not one, or empty."""
    if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
        raise UsageError(
            f"{type(dataset).__name__} is not a map-style dataset",
            where=where,
            fix="it needs len(dataset) and dataset[i] -> (image, class number)",
        )
    count = int(call_user_code(len, dataset, where=where))
    if count == 0:
        raise UsageError("is empty", where=where)
    return count


def get_item(dataset: Any, at: int, where: str) -> tuple[Any, Any]:
    """`dataset[at]`, an (image, class number) pair. Raises UsageError."""
    item = call_user_code(dataset.__getitem__, at, where=where)
    if not isinstance(item, tuple | list) or len(item) != 2:
        raise UsageError(f"sample {at} is not a pair (image, class number)", where=where)
    return item[0], item[1]


def as_pil(image: Any, where: str) -> Any:
    """A PIL image as it is, a uint8 array [H, W(, 1 or 3)] as one. Raises UsageError for anything else."""
    from PIL import Image

    if _is_pil(image):
        return image
    pixels = np.asarray(image)
    if pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    if pixels.dtype != np.uint8 or not (pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 3)):
        raise UsageError(
            f"is {pixels.dtype} {list(pixels.shape)}",
            where=where,
            fix="give PIL images, uint8 arrays [height, width, 1 or 3], or float tensors, model-ready",
        )
    return Image.fromarray(pixels)


def first_image(dataset: Any, where: str) -> np.ndarray:
    """The first sample as an array."""
    return np.asarray(get_item(dataset, 0, where)[0])


def _is_pil(image: Any) -> bool:
    from PIL import Image

    return isinstance(image, Image.Image)


def _is_list_of_numbers(listed: Any, length: int) -> bool:
    if listed is None:
        return False
    try:
        numbers = np.asarray(listed)
    except (TypeError, ValueError):
        return False
    return numbers.shape == (length,) and numbers.dtype.kind in "iu"


def _number(label: Any, where: str) -> int:
    try:
        return operator.index(label)
    except TypeError:
        raise UsageError(f"the class number of a sample is {label!r}, not a whole number", where=where) from None
