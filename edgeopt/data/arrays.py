"""Samples that lie in memory: the built-in digits, `x.npz`, and arrays from a user's function."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from edgeopt.data.named import NamedOrigin, fit_arrays
from edgeopt.data.origin import Inspection, Origin, digest_rows
from edgeopt.data.preprocess import fit_image
from edgeopt.errors import UsageError
from edgeopt.model import Preprocess, TensorInfo
from edgeopt.progress import Progress

__all__ = ["ArrayOrigin", "ArraySource", "check_labels", "check_x", "open_digits", "open_npz"]

DIGITS = Path(__file__).parent / "digits.npz"
DIGITS_PREPROCESS = Preprocess(size=(8, 8), color="gray", scale=1 / 16)
Arrays = dict[str, np.ndarray]
CHUNK = 1024
"""Rows handled at a time where a whole-array temporary would double the memory."""


@dataclass(frozen=True)
class ArraySource:
    """Samples of one array: uint8 [n, H, W, C] or model-ready float32 [n, ...]."""

    array: np.ndarray

    def __len__(self) -> int:
        return len(self.array)

    def read(self, indices: np.ndarray) -> np.ndarray:
        """The rows, copied."""
        rows: np.ndarray = self.array[indices]
        return rows


@dataclass(frozen=True)
class ArraySamples:
    """Every sample in memory; looking at them costs nothing but hashing."""

    source: ArraySource
    labels: np.ndarray | None
    classes: tuple[str, ...]
    test: np.ndarray | None
    boxes: None = None

    def inspect(self, indices: np.ndarray, progress: Progress) -> Inspection:
        """Digests of the rows."""
        parts = np.split(indices, range(CHUNK, len(indices), CHUNK))
        digests = np.concatenate([digest_rows(self.source.read(part)) for part in parts])
        return Inspection(digests, hashlib.sha256(digests.tobytes()).hexdigest())


@dataclass(frozen=True)
class ArrayOrigin:
    """Arrays and what is known of them: uint8 images [n, H, W(, C)], or model-ready float32."""

    name: str
    x: np.ndarray = field(repr=False)
    labels: np.ndarray | None = None
    classes: tuple[str, ...] = ()
    test: np.ndarray | None = None
    preprocess: Preprocess | None = None

    @property
    def model_ready(self) -> bool:
        return self.x.dtype == np.float32

    def guess_preprocess(self) -> Preprocess | None:
        """The size the images have."""
        color = "rgb" if self.x.ndim == 4 and self.x.shape[3] == 3 else "gray"
        return Preprocess.model_validate({"size": self.x.shape[1:3], "color": color})

    def open(self, preprocess: Preprocess | None, progress: Progress) -> ArraySamples:
        """Images are resized here, once, where they are not the right size already."""
        x = self.x if preprocess is None else _fit_all(self.x, preprocess)
        return ArraySamples(ArraySource(x), self.labels, self.classes, self.test)


def _fit_all(images: np.ndarray, preprocess: Preprocess) -> np.ndarray:
    from PIL import Image

    images = images[..., None] if images.ndim == 3 else images
    if images.shape[1:] == (*preprocess.size, preprocess.channels) and (
        preprocess.resize in (None, min(preprocess.size))
    ):
        return images
    fitted = np.empty((len(images), *preprocess.size, preprocess.channels), np.uint8)
    for target, image in zip(fitted, images, strict=True):
        target[:] = fit_image(Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image), preprocess)
    return fitted


def open_digits() -> ArrayOrigin:
    """The built-in UCI digits: 1,437 scans for training, 360 for testing, always the same (see DIGITS.md)."""
    with np.load(DIGITS, allow_pickle=False) as file:
        images, labels, test = file["images"], file["labels"], file["test"]
    names = tuple(str(digit) for digit in range(10))
    return ArrayOrigin("digits", images[..., None], labels.astype(np.int64), names, test, DIGITS_PREPROCESS)


def open_npz(path: Path, inputs: Sequence[TensorInfo] = ()) -> Origin:
    """`x` [n, ...] with optional `y` [n], `x_test`, `y_test`, and `labels` (class names).

    Float arrays are model-ready; uint8 arrays [n, H, W(, C)] are images. For a model with several `inputs`, or one
    that takes integers, an array for each input by its name (`x` will do for the only one), and `NAME_test` where
    there is a test split. Nothing pickled is ever loaded. Raises UsageError naming file and array.
    """
    where = str(path)
    held = _read_npz(path)
    single = not inputs or (len(inputs) == 1 and inputs[0].dtype.kind == "f")
    train, test = _single(held, inputs, where) if single else _by_input(held, inputs, where)
    for name in test:
        check_alike(train[name], test[name], where, name)
    labels, is_test = _labels_of(held, _rows(train), _rows(test), where)
    arrays = {name: np.concatenate([array, test[name]]) if test else array for name, array in train.items()}
    classes = _class_names(held, labels, where)
    if single:
        return ArrayOrigin(path.stem, next(iter(arrays.values())), labels, classes, is_test)
    return NamedOrigin(path.stem, arrays, labels, classes, is_test)


def _single(held: Arrays, inputs: Sequence[TensorInfo], where: str) -> tuple[Arrays, Arrays]:
    """The array of training samples and that of test samples (where there is one): `x`, or called as the input."""
    name = "x" if "x" in held or not inputs else inputs[0].name
    if name not in held:
        raise UsageError(f"has no array x, only {', '.join(held) or 'nothing'}", where=where, fix="save it as x=...")
    return (
        {name: check_x(held[name], f"{where}: {name}")},
        {name: check_x(held[test], f"{where}: {test}")} if (test := f"{name}_test") in held else {},
    )


def _by_input(held: Arrays, inputs: Sequence[TensorInfo], where: str) -> tuple[Arrays, Arrays]:
    """Arrays by input name: training samples, and test samples where there are any."""
    if len(inputs) == 1 and inputs[0].name not in held:
        held = {name.replace("x", inputs[0].name): array for name, array in held.items() if name in ("x", "x_test")}
    train = fit_arrays(held, inputs, where)
    if not any(f"{info.name}_test" in held for info in inputs):
        return train, {}
    tests = fit_arrays(held, [replace(info, name=f"{info.name}_test") for info in inputs], where)
    return train, {info.name: tests[f"{info.name}_test"] for info in inputs}


def _rows(arrays: Arrays) -> int:
    return len(next(iter(arrays.values()))) if arrays else 0


def _labels_of(
    held: Mapping[str, np.ndarray], train: int, test: int, where: str
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Class numbers of all samples, and which of them are test samples (None: the file has no test split)."""
    labels = check_labels(held["y"], train, f"{where}: y") if "y" in held else None
    if not test:
        return labels, None
    if ("y" in held) != ("y_test" in held):
        raise UsageError("y and y_test go together, and one is missing", where=where)
    if labels is not None:
        labels = np.concatenate([labels, check_labels(held["y_test"], test, f"{where}: y_test")])
    return labels, np.arange(train + test) >= train


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    """Every array of the file. Raises UsageError."""
    where = str(path)
    try:
        held = np.load(path, allow_pickle=False)
        if isinstance(held, np.ndarray):
            raise UsageError("holds a single array", where=where, fix="write it with numpy.savez(path, x=...)")
        with held:
            return {name: held[name] for name in held.files}
    except UsageError:
        raise
    except FileNotFoundError:
        raise UsageError("there is no such file", where=where) from None
    except OSError as error:
        raise UsageError(f"cannot be read ({error.strerror or error})", where=where) from error
    except MemoryError as error:
        raise UsageError("is too large for this machine's memory", where=where) from error
    except Exception as error:  # zipfile, zlib, pickle and numpy, each with its own
        hint = "write plain arrays with numpy.savez; pickled objects are refused"
        raise UsageError("is not an .npz of plain arrays", where=where, fix=hint) from error


def check_x(x: np.ndarray, where: str) -> np.ndarray:
    """uint8 images as they are, any float as float32. Raises UsageError for the rest, and for NaN."""
    if x.ndim < 2 or len(x) == 0:
        raise UsageError(f"has shape {list(x.shape)}, and has to be samples x ...", where=where)
    if x.dtype == np.uint8:
        if x.ndim == 3 or (x.ndim == 4 and x.shape[3] in (1, 3)):
            return x
        raise UsageError(f"has shape {list(x.shape)}; uint8 images are [n, height, width, 1 or 3]", where=where)
    if x.dtype.kind != "f":
        raise UsageError(
            f"is {x.dtype}",
            where=where,
            fix="give float32 as the model takes it, or uint8 images [n, height, width, channels]",
        )
    for start in range(0, len(x), CHUNK):
        if not np.isfinite(x[start : start + CHUNK]).all():
            raise UsageError("holds NaN or infinity", where=where)
    ready: np.ndarray = x.astype(np.float32, copy=False)
    return ready


def check_labels(y: Any, count: int, where: str) -> np.ndarray:
    """Class numbers as int64 [count]. Raises UsageError unless they are whole, from 0, one a sample."""
    y = np.asarray(y)
    if y.shape not in ((count,), (count, 1)):
        raise UsageError(
            f"has shape {list(y.shape)} for {count} samples", where=where, fix="give one class number each"
        )
    if y.dtype.kind not in "iu":
        raise UsageError(f"is {y.dtype}; class numbers are integers", where=where)
    if y.min() < 0:
        raise UsageError(f"holds {y.min()}; class numbers start at 0", where=where)
    numbers: np.ndarray = y.reshape(count).astype(np.int64)
    return numbers


def check_alike(x: np.ndarray, x_test: np.ndarray, where: str, name: str = "x") -> None:
    """Raise UsageError unless training and test samples have one shape and dtype."""
    if x.shape[1:] != x_test.shape[1:] or x.dtype != x_test.dtype:
        raise UsageError(
            f"{name} is {x.dtype} {list(x.shape[1:])} and {name}_test is {x_test.dtype} {list(x_test.shape[1:])}",
            where=where,
        )


def _class_names(held: Mapping[str, np.ndarray], labels: np.ndarray | None, where: str) -> tuple[str, ...]:
    if labels is None or "labels" not in held:
        return ()
    names = tuple(str(name) for name in held["labels"].ravel())
    if len(names) <= labels.max():
        raise UsageError(f"names {len(names)} classes, and y goes up to {labels.max()}", where=f"{where}: labels")
    return names
