"""`torchvision:CIFAR10` and its like: any set of torchvision.datasets that needs nothing but a folder."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgeopt.data.cache import cache_folder
from edgeopt.data.mapped import MappedOrigin
from edgeopt.errors import StageFailed, UsageError

__all__ = ["open_torchvision"]

SPLITS = (("train", "test"), ("train", "val"), ("trainval", "test"))
"""What torchvision's classes call their two parts, most wanted first."""


def open_torchvision(name: str) -> MappedOrigin:
    """The set called `name`, downloaded into the cache folder if it is not there and torchvision knows how.

    Raises UsageError when there is no such set or it needs more than a folder, StageFailed when it cannot be
    had.
    """
    where = f"torchvision:{name}"
    build = _find_class(name, where)
    known = inspect.signature(build).parameters
    _refuse_unless_simple(known, where)
    root = cache_folder() / "torchvision" / name
    settings: dict[str, Any] = {"root": str(root)} | ({"download": True} if "download" in known else {})
    if "train" in known:
        parts = tuple(_build(build, settings | {"train": train}, root, where) for train in (True, False))
    elif "split" in known:
        parts = _build_splits(build, settings, root, where)
    else:
        parts = (_build(build, settings, root, where),)
    classes = getattr(parts[0], "classes", None) or ()
    return MappedOrigin(name, where, parts, tuple(_class_name(entry) for entry in classes))


def _find_class(name: str, where: str) -> Any:
    import torchvision.datasets as datasets

    found = getattr(datasets, name, None)
    if name in datasets.__all__ and isinstance(found, type) and issubclass(found, datasets.VisionDataset):
        return found
    raise UsageError("torchvision.datasets has no such set", where=where, fix="write it as in torchvision:CIFAR10")


def _refuse_unless_simple(known: Mapping[str, inspect.Parameter], where: str) -> None:
    needed = [
        name
        for name, parameter in known.items()
        if parameter.default is parameter.empty and parameter.kind is not parameter.VAR_KEYWORD and name != "root"
    ]
    if "root" not in known or needed:
        raise UsageError(
            f"needs {', '.join(needed)} besides a folder" if needed else "is not a set in a folder",
            where=where,
            fix="build it in a function of your own and name that: data.py:factory",
        )


def _build_splits(build: Any, settings: dict[str, Any], root: Path, where: str) -> tuple[Any, ...]:
    """The first pair of split names that the class takes; it raises ValueError for those it does not."""
    refused: ValueError | None = None
    for pair in SPLITS:
        try:
            return tuple(_build(build, settings | {"split": split}, root, where) for split in pair)
        except ValueError as error:
            refused = error
    raise UsageError(
        f"has no train and test split ({' '.join(str(refused).split())[:150]})",
        where=where,
        fix="build it in a function of your own and name that: data.py:factory",
    )


def _build(build: Any, settings: dict[str, Any], root: Path, where: str) -> Any:
    """One part. Raises StageFailed naming the folder; ValueError passes, it means a split name."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        return build(**settings)
    except ValueError:
        raise
    except Exception as error:  # urllib, zipfile, tarfile, pickle, scipy ... each with its own
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise StageFailed(
            f"cannot be had ({reason})",
            where=where,
            fix=f"download it elsewhere and lay it in {root} as torchvision.datasets expects it",
        ) from error


def _class_name(entry: Any) -> str:
    """torchvision's ImageNet names a class by a tuple of synonyms."""
    return str(entry[0] if isinstance(entry, tuple) else entry)
