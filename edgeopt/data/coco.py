"""Boxes in COCO's format (Lin et al., arXiv 1405.0312; cocodataset.org, "Data format"): which images, which boxes.

    root/annotations.json  and  root/images/*                           split by seed
    root/train/annotations.json, root/train/images/*  and  root/test/…  (or val, valid, validation; test wins)
    root/annotations/instances_train2017.json, root/train2017/*  and  instances_val2017.json, root/val2017/*

`_annotations.coco.json` is taken for annotations.json, and images may lie beside it. Images that no annotation names
count: there is nothing in them. Categories are numbered in the order of their ids. Nothing is decoded here.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from edgeopt.data.data import CLASS, CROWD, PADDING
from edgeopt.data.folder import TEST_NAMES, FileOrigin, FileSamples
from edgeopt.data.images import ImageFiles, image_size
from edgeopt.data.preprocess import fit_boxes
from edgeopt.errors import UsageError
from edgeopt.model import Preprocess
from edgeopt.progress import Progress

__all__ = ["CocoOrigin", "open_coco"]

FILES = ("annotations.json", "_annotations.coco.json")
MOST_BOXES = 1000
"""Boxes of one image: COCO's fullest has 93. Every image takes as much memory as the fullest one."""
LARGEST_SIDE = 1_000_000
CHECKED = 64
"""Images whose stated size is held against the file's, spread evenly."""


@dataclass(frozen=True)
class Picture:
    """One image and its boxes, in its own pixels."""

    path: str
    size: tuple[int, int]
    """Width, height, pixels."""
    boxes: np.ndarray
    """float64 [k, 6]: x1, y1, x2, y2, number of the class, whether it is a crowd."""


@dataclass(frozen=True)
class CocoSamples(FileSamples):
    """The images behind a decoder, and their boxes in pixels of the model's input."""

    classes: tuple[str, ...]
    test: np.ndarray | None
    boxes: np.ndarray
    labels: None = None


@dataclass(frozen=True)
class CocoOrigin(FileOrigin):
    """Annotated images; `test` goes with `pictures`."""

    pictures: tuple[Picture, ...]
    classes: tuple[str, ...]
    test: np.ndarray | None

    def open(self, preprocess: Preprocess | None, progress: Progress) -> CocoSamples:
        """The boxes follow the images: resized, cropped. Warns of boxes that nothing is left of."""
        assert preprocess is not None
        fitted = [fit_boxes(own.boxes, own.size, preprocess) for own in self.pictures]
        lost = sum(len(own.boxes) for own in self.pictures) - sum(map(len, fitted))
        if lost:
            progress.warn(f"{lost} boxes of {self.name} are left out: they are empty, or outside of the image")
        source = ImageFiles([own.path for own in self.pictures], self.root, preprocess)
        return CocoSamples(source, self.classes, self.test, _padded(fitted))


def open_coco(root: Path) -> CocoOrigin | None:
    """The annotated images of a folder; None where it has no annotations. Raises UsageError for broken ones."""
    root = Path(os.path.abspath(root))
    places = _places(root)
    if not places:
        return None
    parts = [_Part(*place) for place in places]
    first, others = parts[0], parts[1:]
    for other in others:
        if unknown := sorted(set(other.categories.items()) - set(first.categories.items()), key=str):
            raise UsageError(
                f"category {unknown[0][1]!r} (id {unknown[0][0]}) is not among those of {first.file.name}",
                where=str(other.file),
                fix="give both files the same categories",
            )
    numbers = {key: number for number, key in enumerate(sorted(first.categories, key=_order))}
    pictures = [picture for part in parts for picture in part.pictures(numbers)]
    if not any(len(picture.boxes) for picture in pictures):
        raise UsageError("annotates no box", where=str(first.file))
    _check_sizes(pictures, first.file)
    test = np.arange(len(pictures)) >= len(first.images) if others else None
    return CocoOrigin(root, tuple(pictures), tuple(first.categories[key] for key in numbers), test)


def _places(root: Path) -> list[tuple[Path, Path]]:
    """(annotations, folder of the images): of training and test images, of all together, or none."""
    try:
        by_name = {entry.name.lower(): entry for entry in root.iterdir() if entry.is_dir()}
    except OSError:  # whoever lists the folder's images says so
        return []
    test_name = next((name for name in TEST_NAMES if name in by_name and _file_in(by_name[name])), None)
    if "train" in by_name and (train := _file_in(by_name["train"])):
        found = [train, _file_in(by_name[test_name]) if test_name else None]
        return [(file, _images_beside(file)) for file in found if file]
    if file := _file_in(root):
        return [(file, _images_beside(file))]
    return _official(root)


def _file_in(folder: Path) -> Path | None:
    return next((folder / name for name in FILES if (folder / name).is_file()), None)


def _images_beside(file: Path) -> Path:
    inside = file.parent / "images"
    return inside if inside.is_dir() else file.parent


def _official(root: Path) -> list[tuple[Path, Path]]:
    """As cocodataset.org's archives unpack."""
    places = []
    for part in ("train", "val"):
        found = sorted((root / "annotations").glob(f"instances_{part}*.json"))
        if len(found) > 1:
            raise UsageError(
                f"has {len(found)} files of {part} annotations ({found[0].name}, {found[1].name})",
                where=str(root / "annotations"),
                fix="keep one",
            )
        for file in found:
            name = file.stem.removeprefix("instances_")
            folder = next((f for f in (root / name, root / "images" / name) if f.is_dir()), None)
            if folder is None:
                raise UsageError(f"there is no folder {name} of its images", where=str(file), fix=f"unpack {name}.zip")
            places.append((file, folder))
    return places


class _Part:
    """One file of annotations, checked as far as its references go."""

    def __init__(self, file: Path, folder: Path) -> None:
        self.file, self.folder = file, folder
        content = self._content()
        self.images = self._table(content["images"], "images")
        self.categories = {
            key: str(entry.get("name", key)) for key, entry in self._table(content["categories"], "categories").items()
        }
        self.annotations: list[Any] = content["annotations"]

    def pictures(self, numbers: dict[Any, int]) -> list[Picture]:
        """The images in the file's order; `numbers`: category id -> number of the class."""
        rows: dict[Any, list[tuple[float, ...]]] = {key: [] for key in self.images}
        for at, entry in enumerate(self.annotations):
            rows[self._known(entry, "image_id", self.images, at)].append(self._row(entry, at, numbers))
        if fullest := [key for key, own in rows.items() if len(own) > MOST_BOXES]:
            raise self._error(
                f"image {fullest[0]!r} has {len(rows[fullest[0]])} boxes; at most {MOST_BOXES} can be held"
            )
        return [
            Picture(path, self._size(entry, path), np.array(rows[key], np.float64).reshape(-1, CROWD + 1))
            for key, entry in self.images.items()
            for path in [self._path(entry)]
        ]

    def _content(self) -> dict[str, list[Any]]:
        try:
            content = json.loads(self.file.read_bytes())
        except OSError as error:
            raise self._error(f"cannot be read ({error.strerror})") from error
        except (ValueError, RecursionError) as error:
            raise self._error(f"is not JSON ({' '.join(str(error).split())[:120]})") from error
        keys = ("images", "annotations", "categories")
        wrong = [key for key in keys if not isinstance(content, dict) or not isinstance(content.get(key), list)]
        if wrong:
            raise self._error(
                f"has no list {wrong[0]!r}", "annotations in COCO's format have images, annotations, categories"
            )
        if not content["images"] or not content["categories"]:
            raise self._error("names no images" if not content["images"] else "names no categories")
        return {key: content[key] for key in keys}

    def _table(self, entries: list[Any], what: str) -> dict[Any, dict[str, Any]]:
        """id -> entry, in the file's order."""
        table: dict[Any, dict[str, Any]] = {}
        for at, entry in enumerate(entries):
            key = entry.get("id") if isinstance(entry, dict) else None
            if not isinstance(key, int | str):
                raise self._error("has no id", place=f"{what}[{at}]")
            if key in table:
                raise self._error(f"id {key!r} is there twice", place=f"{what}[{at}]")
            table[key] = entry
        return table

    def _known(self, entry: Any, field: str, table: dict[Any, Any], at: int) -> Any:
        key = entry.get(field) if isinstance(entry, dict) else None
        if not isinstance(key, int | str) or key not in table:
            raise self._error(f"{field} {key!r} is not in the file", place=f"annotations[{at}]")
        return key

    def _row(self, entry: dict[str, Any], at: int, numbers: dict[Any, int]) -> tuple[float, ...]:
        """x1, y1, x2, y2, number of the class, crowd."""
        number = numbers[self._known(entry, "category_id", self.categories, at)]
        box = entry.get("bbox")
        if not (isinstance(box, list) and len(box) == 4 and all(_is_number(value) for value in box)):
            raise self._error(
                f"bbox is {str(box)[:60]}", "write [x, y, width, height] in pixels", place=f"annotations[{at}]"
            )
        x, y, width, height = box
        return (x, y, x + width, y + height, number, float(bool(entry.get("iscrowd"))))

    def _path(self, entry: dict[str, Any]) -> str:
        name = entry.get("file_name")
        path = os.path.normpath(self.folder / name) if isinstance(name, str) and "\0" not in name else ""
        if not path.startswith(os.path.join(self.folder, "")):
            raise self._error(
                f"file_name {str(name)[:80]!r} is no file of {self.folder}",
                "name it relative to the folder of the images",
                place=f"image {entry['id']!r}",
            )
        return path

    def _size(self, entry: dict[str, Any], path: str) -> tuple[int, int]:
        """Width and height as stated, or as the file has them."""
        width, height = entry.get("width"), entry.get("height")
        if width is None and height is None:
            return image_size(path)
        if not (_is_side(width) and _is_side(height)):
            raise self._error(f"width and height are {width} and {height}", place=f"image {entry['id']!r}")
        return int(width), int(height)

    def _error(self, found: str, fix: str = "", place: str = "") -> UsageError:
        return UsageError(found, where=": ".join(filter(None, [str(self.file), place])), fix=fix)


def _order(key: int | str) -> tuple[bool, int | str]:
    """Numbers first, each kind in its own order."""
    return isinstance(key, str), key


def _is_side(value: object) -> TypeGuard[float]:
    return _is_number(value) and 1 <= value <= LARGEST_SIDE


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and abs(value) < 1e9


def _check_sizes(pictures: Sequence[Picture], file: Path) -> None:
    """Raise UsageError where an image has another size than its annotations were made for; unreadable ones are
    reported when they are decoded."""
    for at in np.unique(np.linspace(0, len(pictures) - 1, CHECKED).astype(np.int64)):
        picture = pictures[at]
        try:
            found = image_size(picture.path)
        except UsageError:
            continue
        if found != picture.size:
            raise UsageError(
                f"{picture.path} is {found[0]} x {found[1]} pixels, and the annotations are for "
                f"{picture.size[0]} x {picture.size[1]}",
                where=str(file),
                fix="annotate the images as they are",
            )


def _padded(boxes: Sequence[np.ndarray]) -> np.ndarray:
    """float32 [n, most, 6]; rows that are no box have the class PADDING."""
    filled = np.zeros((len(boxes), max(1, *map(len, boxes)), CROWD + 1), np.float32)
    filled[:, :, CLASS] = PADDING
    for row, own in zip(filled, boxes, strict=True):
        row[: len(own)] = own
    return filled
