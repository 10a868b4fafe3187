"""Accuracy of several models in one pass over the images; of detectors, mean average precision.

Every image is decoded once and goes through all sessions before the next one is read, so that a comparison
is paired by construction. Only the answers (a detector's boxes) and two running sums a model are kept, whatever
the number of images.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np

from edgeopt.data import Split
from edgeopt.data.data import Rows
from edgeopt.errors import StageFailed, UsageError
from edgeopt.measure.boxes import Precision, mean_precision
from edgeopt.measure.feeds import fit_feeds
from edgeopt.model.anchors import Anchors
from edgeopt.model.runtime import run
from edgeopt.progress import SILENT, Progress

if TYPE_CHECKING:
    import onnxruntime as ort
    from torch import Tensor

__all__ = ["Outcome", "evaluate"]


@dataclass(frozen=True)
class Outcome:
    """How one model answered on the images of a split, beside the reference model."""

    answers: np.ndarray | None
    """int64 [n]: index of the largest output, image by image, in the split's order; None for boxes."""
    correct: np.ndarray | None
    """bool [n]; None when the images have no class labels."""
    agreement: float | None
    """Fraction of images answered as the reference does; 1.0 for the reference itself; None for boxes."""
    sqnr_db: float
    """Reference power / error power over all outputs, decibels; inf when they are equal."""
    precision: Precision | None = None
    """Of boxes, where the images are labelled with them."""

    @property
    def samples(self) -> int:
        """Images."""
        if self.precision is not None:
            return self.precision.images
        assert self.answers is not None
        return len(self.answers)

    @property
    def accuracy(self) -> float | None:
        """Fraction of 1, of boxes the mean average precision; None without labels: `agreement` then stands in for
        it."""
        if self.precision is not None:
            return self.precision.map
        return None if self.correct is None else float(np.mean(self.correct))


class _Tally(ABC):
    """What is kept of one model's outputs: two sums, and what they are read as."""

    def __init__(self) -> None:
        self.signal = 0.0
        self.noise = 0.0

    def add(self, outputs: np.ndarray, reference: np.ndarray) -> None:
        self.read(outputs)
        self.signal += float(np.sum(np.square(reference)))
        self.noise += float(np.sum(np.square(outputs - reference)))

    @property
    def sqnr_db(self) -> float:
        return _decibels(self.signal, self.noise)

    @abstractmethod
    def read(self, outputs: np.ndarray) -> None:
        """Take in the outputs [n, values] of a batch."""

    @abstractmethod
    def outcome(self, split: Split, reference: Self) -> Outcome:
        """When all images of `split` were added."""


class _Classes(_Tally):
    """Outputs as a value for each class."""

    def __init__(self) -> None:
        super().__init__()
        self.answers: list[np.ndarray] = []

    def read(self, outputs: np.ndarray) -> None:
        self.answers.append(outputs.argmax(axis=1))

    def outcome(self, split: Split, reference: Self) -> Outcome:
        answers = np.concatenate(self.answers)
        return Outcome(
            answers=answers,
            correct=None if split.labels is None else answers == split.labels,
            agreement=float(np.mean(answers == np.concatenate(reference.answers))),
            sqnr_db=self.sqnr_db,
        )


class _Boxes(_Tally):
    """Outputs as a detector's raw heads."""

    def __init__(self, anchors: Anchors) -> None:
        super().__init__()
        self.anchors = anchors
        self.found: list[dict[str, Tensor]] = []

    def read(self, outputs: np.ndarray) -> None:
        import torch

        from edgeopt.model.boxes import decode

        heads = torch.from_numpy(outputs.reshape(len(outputs), self.anchors.count, -1))
        self.found += decode(heads, self.anchors)

    def outcome(self, split: Split, reference: Self) -> Outcome:
        assert split.boxes is not None
        return Outcome(None, None, None, self.sqnr_db, mean_precision(self.found, split.boxes))


def evaluate(
    sessions: Mapping[str, ort.InferenceSession],
    split: Split,
    *,
    reference: str,
    anchors: Anchors | None = None,
    batch_size: int = 64,
    progress: Progress = SILENT,
) -> dict[str, Outcome]:
    """Answers of every session on every image of `split`; `reference` names the session they are compared
    with.

    The first output counts, flattened to [n, classes]; where the images are labelled with boxes, read with `anchors`
    (those of the reference, and of them all). Sessions may have a fixed batch size and float16 inputs. Raises
    StageFailed on no images, on outputs that are not finite or not of the reference's shape, UsageError for boxes
    without anchors or without torchmetrics.
    """
    if len(split) == 0:
        raise StageFailed("there are no test images to measure on", fix="use more images or another split")
    tallies = {name: _tally(split, anchors) for name in sessions}
    progress.start("measuring accuracy", len(split))
    for batch in split.batches(batch_size):
        expected = predict(sessions[reference], batch.rows, name=reference)
        for name, session in sessions.items():
            outputs = expected if name == reference else predict(session, batch.rows, name=name)
            if outputs.shape != expected.shape:
                raise StageFailed(
                    f"gives {outputs.shape[1]} outputs an image, {reference} gives {expected.shape[1]}",
                    where=name,
                    fix="compare models of the same task",
                )
            tallies[name].add(outputs, expected)
        progress.advance(len(batch))
    return {name: tally.outcome(split, tallies[reference]) for name, tally in tallies.items()}


def _tally(split: Split, anchors: Anchors | None) -> _Tally:
    if split.boxes is None:
        return _Classes()
    if anchors is None:
        raise UsageError(
            "the images are labelled with boxes, and the model does not say how its outputs become boxes",
            fix="use a detector such as edgeopt:ssd, or a module with `anchors` (docs/detection.md)",
        )
    return _Boxes(anchors)


def predict(session: ort.InferenceSession, rows: Rows, *, name: str = "") -> np.ndarray:
    """First output for a batch, float64 [n, outputs]; a session with a fixed batch size is called repeatedly.

    `rows` is one array for the only input, or arrays by input name. Raises StageFailed when an output is not finite.
    """
    feeds = fit_feeds(session, rows)
    count = len(next(iter(feeds.values())))
    shape = session.get_inputs()[0].shape
    step = shape[0] if shape and isinstance(shape[0], int) else count
    parts = [
        _run_padded(session, {key: array[start : start + step] for key, array in feeds.items()}, step)
        for start in range(0, count, step)
    ]
    outputs = np.concatenate(parts).astype(np.float64)
    if not np.isfinite(outputs).all():
        bad = int(np.sum(~np.isfinite(outputs).all(axis=1)))
        raise StageFailed(
            f"gives NaN or infinite outputs on {bad} of {count} images",
            where=name,
            fix="its numbers overflow: use fp32, or int8 with another calibrator",
        )
    return outputs


def _run_padded(session: ort.InferenceSession, feeds: Mapping[str, np.ndarray], size: int) -> np.ndarray:
    """One call with exactly `size` samples; missing ones repeat the last and are cut off again."""
    count = len(next(iter(feeds.values())))
    full = {
        name: np.concatenate([array, np.repeat(array[-1:], size - count, axis=0)]) if count < size else array
        for name, array in feeds.items()
    }
    return run(session, full)[0].reshape(size, -1)[:count]


def _decibels(signal: float, noise: float) -> float:
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal > 0 else -math.inf
