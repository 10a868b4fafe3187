"""Arrays by the names of a model's inputs: token ids, masks, several images. Model-ready, of any dtype."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from edgeopt.data.origin import Inspection, digest_rows
from edgeopt.errors import UsageError
from edgeopt.model import Preprocess, TensorInfo
from edgeopt.progress import Progress

__all__ = ["NamedOrigin", "NamedSource", "fit_array", "fit_arrays"]

CHUNK = 1024
"""Rows handled at a time where a whole-array temporary would double the memory."""
KINDS = {"f": "f", "i": "iub", "u": "iub", "b": "b"}
"""Kind of the model's input -> kinds of arrays that hold such numbers exactly (if they are in range)."""


@dataclass(frozen=True)
class NamedSource:
    """Samples of several arrays [n, ...], by input name."""

    arrays: Mapping[str, np.ndarray] = field(repr=False)

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values())))

    def read(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """The rows of each array, copied."""
        return {name: array[indices] for name, array in self.arrays.items()}


@dataclass(frozen=True)
class NamedSamples:
    """Every sample in memory."""

    source: NamedSource
    labels: np.ndarray | None
    classes: tuple[str, ...]
    test: np.ndarray | None
    boxes: None = None

    def inspect(self, indices: np.ndarray, progress: Progress) -> Inspection:
        """Digests over all the arrays of a sample; names count, their order does not."""
        parts = []
        for start in range(0, len(indices), CHUNK):
            rows = self.source.read(indices[start : start + CHUNK])
            each = np.stack([digest_rows(rows[name]) for name in sorted(rows)], axis=1)
            parts.append(digest_rows(each))
        digests = np.concatenate(parts)
        names = "\0".join(sorted(self.source.arrays))
        return Inspection(digests, hashlib.sha256(names.encode() + digests.tobytes()).hexdigest())


@dataclass(frozen=True)
class NamedOrigin:
    """Model-ready arrays by input name, training and test samples together."""

    name: str
    arrays: Mapping[str, np.ndarray] = field(repr=False)
    labels: np.ndarray | None = None
    classes: tuple[str, ...] = ()
    test: np.ndarray | None = None

    @property
    def model_ready(self) -> bool:
        return True

    @property
    def preprocess(self) -> Preprocess | None:
        """Nothing to preprocess."""
        return None

    def guess_preprocess(self) -> Preprocess | None:
        """Nothing to preprocess."""
        return None

    def open(self, preprocess: Preprocess | None, progress: Progress) -> NamedSamples:
        """The arrays as they are."""
        return NamedSamples(NamedSource(self.arrays), self.labels, self.classes, self.test)


def fit_arrays(held: Mapping[str, np.ndarray], inputs: Sequence[TensorInfo], where: str) -> dict[str, np.ndarray]:
    """The array of each of the model's inputs, in its dtype.

    Raises UsageError for an input without an array, a dtype that does not fit, or arrays of unequal lengths.
    """
    missing = [info.name for info in inputs if info.name not in held]
    if missing:
        raise UsageError(
            f"has no array {missing[0]}, which is an input of the model (it has {', '.join(held) or 'nothing'})",
            where=where,
            fix=f"save it with numpy.savez(path, {', '.join(f'{info.name}=...' for info in inputs)})",
        )
    arrays = {info.name: fit_array(held[info.name], info.dtype, f"{where}: {info.name}") for info in inputs}
    first, count = next((name, len(array)) for name, array in arrays.items())
    for name, array in arrays.items():
        if len(array) != count:
            raise UsageError(f"{name} holds {len(array)} samples, {first} holds {count}", where=where)
    return arrays


def fit_array(array: np.ndarray, dtype: np.dtype, where: str) -> np.ndarray:
    """The array [n, ...] in an input's dtype. Raises UsageError unless it holds such numbers, finite and in range."""
    if array.ndim < 1 or len(array) == 0:
        raise UsageError(f"has shape {list(array.shape)}, and has to be samples x ...", where=where)
    if array.dtype.kind not in KINDS.get(dtype.kind, dtype.kind):
        raise UsageError(f"is {array.dtype}, the model's input is {dtype}", where=where, fix=f"save it as {dtype}")
    if dtype.kind == "f" and not all(np.isfinite(array[at : at + CHUNK]).all() for at in range(0, len(array), CHUNK)):
        raise UsageError("holds NaN or infinity", where=where)
    if dtype.kind in "iu" and array.dtype.kind in "iu" and array.size:
        low, high, limits = array.min(), array.max(), np.iinfo(dtype)
        if low < limits.min or high > limits.max:
            raise UsageError(f"holds {low} to {high}, beyond {dtype}, which the model takes", where=where)
    fitted: np.ndarray = array.astype(dtype, copy=False)
    return fitted
