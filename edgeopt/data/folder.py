"""A folder of images: which files, which classes, which splits. Nothing is decoded here.

    root/train/<class>/*  and  root/test/<class>/*     (or val, valid, validation; test wins)
    root/<class>/*                                     split by seed
    root/*                                             no labels; split by seed
    root/train/*          and  root/test/*             no labels

Classes are numbered in the order of their names, as torchvision's ImageFolder does. Hidden files and files
that are not images by their ending are passed over.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgeopt.data.images import ImageFiles
from edgeopt.data.origin import Inspection
from edgeopt.errors import UsageError
from edgeopt.model import Preprocess
from edgeopt.progress import Progress

__all__ = ["TEST_NAMES", "FileOrigin", "FileSamples", "FolderOrigin", "open_folder"]

ENDINGS = frozenset((".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff", ".gif"))
TEST_NAMES = ("test", "val", "valid", "validation")


@dataclass(frozen=True)
class FileSamples:
    """Image files behind a decoder."""

    source: ImageFiles

    def inspect(self, indices: np.ndarray, progress: Progress) -> Inspection:
        """See ImageFiles."""
        return self.source.inspect(indices, progress)


@dataclass(frozen=True)
class FileOrigin:
    """Image files under one folder."""

    root: Path

    @property
    def name(self) -> str:
        return self.root.name

    @property
    def model_ready(self) -> bool:
        return False

    @property
    def preprocess(self) -> Preprocess | None:
        """Files say nothing about it."""
        return None

    def guess_preprocess(self) -> Preprocess | None:
        """Nothing to go by: the files may have any sizes."""
        return None


@dataclass(frozen=True)
class FolderSamples(FileSamples):
    """The files of a folder behind a decoder."""

    labels: np.ndarray | None
    classes: tuple[str, ...]
    test: np.ndarray | None
    boxes: None = None


@dataclass(frozen=True)
class FolderOrigin(FileOrigin):
    """Listed files; `labels` and `test` go with `paths`."""

    paths: tuple[str, ...]
    labels: np.ndarray | None
    classes: tuple[str, ...]
    test: np.ndarray | None

    def open(self, preprocess: Preprocess | None, progress: Progress) -> FolderSamples:
        assert preprocess is not None
        source = ImageFiles(self.paths, self.root, preprocess)
        return FolderSamples(source, self.labels, self.classes, self.test)


@dataclass(frozen=True)
class _Listing:
    """One split: its files, sorted by class and name."""

    paths: tuple[str, ...]
    labels: np.ndarray | None
    classes: tuple[str, ...]


def open_folder(root: Path) -> FolderOrigin:
    """List the folder. Raises UsageError when it is unreadable, empty, ambiguous or of a single class."""
    root = Path(os.path.abspath(root))
    _, folders = _scan(str(root))
    by_name = {_name(folder).lower(): folder for folder in folders}
    test_folder = next((by_name[name] for name in TEST_NAMES if name in by_name), None)
    if "train" in by_name and test_folder is not None:
        return _join(root, _list_split(by_name["train"]), _list_split(test_folder))
    listing = _list_split(by_name["train"] if list(by_name) == ["train"] else str(root))
    return FolderOrigin(root, listing.paths, listing.labels, listing.classes, None)


def _join(root: Path, train: _Listing, test: _Listing) -> FolderOrigin:
    """Both splits, the test classes numbered as the training classes are."""
    if (train.labels is None) != (test.labels is None):
        raise UsageError("one of train and test has class folders, the other has not", where=str(root))
    mask = np.arange(len(train.paths) + len(test.paths)) >= len(train.paths)
    if train.labels is None or test.labels is None:
        return FolderOrigin(root, train.paths + test.paths, None, (), mask)
    if unknown := [name for name in test.classes if name not in train.classes]:
        raise UsageError(
            f"class {unknown[0]!r} of the test images is not among the {len(train.classes)} training classes",
            where=str(root),
            fix="name the class folders alike",
        )
    numbers = np.array([train.classes.index(name) for name in test.classes], np.int64)
    labels = np.concatenate([train.labels, numbers[test.labels]])
    return FolderOrigin(root, train.paths + test.paths, labels, train.classes, mask)


def _list_split(folder: str) -> _Listing:
    images, folders = _scan(folder)
    if images and folders:
        raise UsageError(
            f"has images ({_name(images[0])}, ...) beside folders ({_name(folders[0])}, ...): which are classes?",
            where=folder,
            fix="put every image into a class folder, or none",
        )
    if images:
        return _Listing(tuple(images), None, ())
    files = {_name(sub): list(_walk(sub, frozenset())) for sub in folders}
    if not any(files.values()):
        raise UsageError("holds no images", where=folder, fix=f"endings known: {' '.join(sorted(ENDINGS))}")
    if empty := [name for name, found in files.items() if not found]:
        raise UsageError(f"class folder {empty[0]!r} holds no images", where=folder, fix="fill or remove it")
    if len(files) == 1:
        raise UsageError(
            f"has a single class ({_name(folders[0])})",
            where=folder,
            fix="add the others; for images without labels put them straight into the folder",
        )
    paths = tuple(path for found in files.values() for path in found)
    labels = np.repeat(np.arange(len(files)), [len(found) for found in files.values()]).astype(np.int64)
    return _Listing(paths, labels, tuple(files))


def _walk(folder: str, above: frozenset[str]) -> Iterator[str]:
    """Images of the folder and of those below it; a symbolic link back up is not followed twice."""
    real = os.path.realpath(folder)
    if real in above:
        return
    images, folders = _scan(folder)
    yield from images
    for sub in folders:
        yield from _walk(sub, above | {real})


def _name(path: str) -> str:
    """The last part of the path, fit for printing whatever bytes it is made of."""
    return os.path.basename(path).encode(errors="backslashreplace").decode()


def _scan(folder: str) -> tuple[list[str], list[str]]:
    """Images and subfolders, sorted by name. Raises UsageError when the folder cannot be read."""
    try:
        with os.scandir(folder) as entries:
            shown = sorted((e for e in entries if not e.name.startswith((".", "__"))), key=lambda e: e.name)
            images = [e.path for e in shown if os.path.splitext(e.name)[1].lower() in ENDINGS and not e.is_dir()]
            folders = [e.path for e in shown if e.is_dir()]
    except OSError as error:
        raise UsageError(f"cannot be read ({error.strerror or error})", where=folder) from error
    return images, folders
