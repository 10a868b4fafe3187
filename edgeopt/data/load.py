"""`load_data`: from what a recipe says to three splits that never overlap.

The order: find the source, settle the preprocessing, open the source, split, look at the samples that will be
used (digest them, leave out the unreadable and the copies of test images), draw the calibration samples, and
check it all against the model. The same files, spec and seed give the same Data, whatever the machine.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np

from edgeopt.data.arrays import open_digits, open_npz
from edgeopt.data.coco import open_coco
from edgeopt.data.data import Data, Split
from edgeopt.data.factory import open_factory
from edgeopt.data.folder import open_folder
from edgeopt.data.match import fit_box_classes, fit_classes, fit_input
from edgeopt.data.origin import Inspection, Origin, Samples
from edgeopt.data.resolve import resolve_preprocess
from edgeopt.data.spec import DataSpec
from edgeopt.data.split import balanced_order, split_by_class, without_copies
from edgeopt.data.torchvision_sets import open_torchvision
from edgeopt.errors import UsageError
from edgeopt.model import Model
from edgeopt.progress import SILENT, Progress
from edgeopt.spec import digest

__all__ = ["load_data"]

MAX_UNREADABLE = 0.01
"""From this share of unreadable files on, something is wrong with the data set, not with a file."""


def load_data(spec: DataSpec, *, model: Model | None = None, seed: int = 0, progress: Progress = SILENT) -> Data:
    """Train, calibration and test splits of `spec.source`.

    Preprocessing is `spec.preprocess`, else the model's, else the source's own, else a guess from the model's
    input shape (warned about). `seed` decides the split of a source without a test split, and the calibration
    samples. Raises UsageError when the source cannot be read, or does not fit the model.
    """
    origin = find_source(spec.source, model)
    if origin.model_ready:
        preprocess = None
        if spec.preprocess is not None:
            progress.warn(f"{spec.source} holds model-ready arrays: data.preprocess is not applied")
    else:
        preprocess = resolve_preprocess(spec.preprocess, origin, model, progress)
    samples = origin.open(preprocess, progress)
    labels, boxes = samples.labels, samples.boxes
    if boxes is None:
        labels, classes = fit_classes(labels, samples.classes, model, spec.source, progress)
    else:
        boxes, classes = fit_box_classes(boxes, samples.classes, model, spec.source, progress)
    train, test = _choose(samples, spec, seed)
    inspection = samples.inspect(np.concatenate([train, test]), progress)
    train, test, copies = _clean(train, test, inspection, spec.source)
    _warn(inspection, copies, progress)

    def split(index: np.ndarray) -> Split:
        known, marked = (None if truth is None else truth[index] for truth in (labels, boxes))
        return Split(samples.source, index, known, preprocess, marked)

    data = Data(
        name=origin.name,
        train=split(train),
        calibration=split(train).sample(spec.calibration, seed),
        test=split(test),
        labels=classes,
        preprocess=preprocess,
        fingerprint="",
        skipped=tuple(inspection.unreadable.values()),
    )
    if model is not None:
        fit_input(data.test, model, spec.source)
    return replace(data, fingerprint=_fingerprint(data, inspection.content))


def find_source(source: str, model: Model | None = None) -> Origin:
    """What `source` names, opened as far as that needs no preprocessing; an .npz is read for the inputs of `model`.
    Raises UsageError."""
    path = Path(source).expanduser()
    if source == "digits":
        return open_digits()
    if source.startswith("torchvision:"):
        return open_torchvision(source.removeprefix("torchvision:"))
    if ".py:" in source:
        return open_factory(source)
    if path.suffix == ".npz":
        return open_npz(path, model.inputs if model is not None else ())
    if path.is_dir():
        return open_coco(path) or open_folder(path)
    found = "is a file of another kind" if path.exists() else "there is no such folder or file"
    raise UsageError(
        found, where=source, fix="give digits, a folder of images, x.npz, torchvision:NAME or data.py:factory"
    )


def _choose(samples: Samples, spec: DataSpec, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices (train, test) into the source, at most `spec.limit` of each."""
    rng = np.random.default_rng(seed)
    if samples.test is None:
        train, test = split_by_class(len(samples.source), samples.labels, spec.test_fraction, rng)
    else:
        train, test = np.flatnonzero(~samples.test), np.flatnonzero(samples.test)
    limited = [_at_most(part, spec.limit, samples.labels, rng) for part in (train, test)]
    for part, name in zip(limited, ("train on", "test on"), strict=True):
        if len(part) == 0:
            raise UsageError(f"has no images to {name}", where=spec.source, fix="add some, or change test_fraction")
    return limited[0], limited[1]


def _at_most(part: np.ndarray, limit: int | None, labels: np.ndarray | None, rng: np.random.Generator) -> np.ndarray:
    if limit is None or len(part) <= limit:
        return part
    chosen = balanced_order(len(part), None if labels is None else labels[part], rng)[:limit]
    kept: np.ndarray = part[np.sort(chosen)]
    return kept


def _clean(
    train: np.ndarray, test: np.ndarray, inspection: Inspection, where: str
) -> tuple[np.ndarray, np.ndarray, int]:
    """Leave out what is unreadable, and from train what test has too; also how many copies those were."""
    bad, total = inspection.unreadable, len(train) + len(test)
    if bad and len(bad) >= MAX_UNREADABLE * total:
        first = "; ".join(list(bad.values())[:3])
        raise UsageError(
            f"{len(bad)} of {total} images cannot be read ({first})", where=where, fix="mend or remove them"
        )
    readable = np.ones(total, bool)
    readable[list(bad)] = False
    at = np.arange(total)
    train_at, test_at = (at[part][readable[part]] for part in (slice(len(train)), slice(len(train), None)))
    distinct = train_at
    if inspection.digests is not None:
        distinct = without_copies(train_at, test_at, inspection.digests)
    if len(distinct) == 0:
        raise UsageError("every training image is in the test split too", where=where)
    both = np.concatenate([train, test])
    return both[distinct], both[test_at], len(train_at) - len(distinct)


def _warn(inspection: Inspection, copies: int, progress: Progress) -> None:
    if inspection.unreadable:
        names = "; ".join(inspection.unreadable.values())
        progress.warn(f"{len(inspection.unreadable)} unreadable image(s) left out: {names}")
    if copies:
        progress.warn(f"{copies} training image(s) left out: the same, byte for byte, are in the test split")


def _fingerprint(data: Data, content: str) -> str:
    """Equal for equal content, labels, splits and preprocessing; where the files lie does not count."""
    splits = (data.train, data.calibration, data.test)
    arrays = [part for split in splits for part in (split.index, split.truth) if part is not None]
    said = {
        "content": content,
        "splits": [hashlib.sha256(_portable(array).tobytes()).hexdigest() for array in arrays],
        "classes": data.labels,
        "preprocess": None if data.preprocess is None else data.preprocess.model_dump(mode="json"),
    }
    return digest(said)


def _portable(array: np.ndarray) -> np.ndarray:
    """The same bytes on every machine."""
    return array.astype("<f4" if array.dtype.kind == "f" else "<i8")
