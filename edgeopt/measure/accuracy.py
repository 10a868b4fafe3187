"""Accuracy of several models in one pass over the images.

Every image is decoded once and goes through all sessions before the next one is read, so that a comparison
is paired by construction. Only the answers and two running sums a model are kept, whatever the number of
images.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgeopt.data import Split
from edgeopt.data.data import Rows
from edgeopt.errors import StageFailed
from edgeopt.measure.feeds import fit_feeds
from edgeopt.model.runtime import run
from edgeopt.progress import SILENT, Progress

if TYPE_CHECKING:
    import onnxruntime as ort

__all__ = ["Outcome", "evaluate"]


@dataclass(frozen=True)
class Outcome:
    """How one model answered on the images of a split, beside the reference model."""

    answers: np.ndarray
    """int64 [n]: index of the largest output, image by image, in the split's order."""
    correct: np.ndarray | None
    """bool [n]; None when the images have no labels."""
    agreement: float
    """Fraction of images answered as the reference does; 1.0 for the reference itself."""
    sqnr_db: float
    """Reference power / error power over all outputs, decibels; inf when they are equal."""

    @property
    def samples(self) -> int:
        return len(self.answers)

    @property
    def accuracy(self) -> float | None:
        """Fraction of 1; None without labels: `agreement` then stands in for it."""
        return None if self.correct is None else float(np.mean(self.correct))


class _Tally:
    """Running answers and sums of one model."""

    def __init__(self) -> None:
        self.answers: list[np.ndarray] = []
        self.signal = 0.0
        self.noise = 0.0

    def add(self, outputs: np.ndarray, reference: np.ndarray) -> None:
        self.answers.append(outputs.argmax(axis=1))
        self.signal += float(np.sum(np.square(reference)))
        self.noise += float(np.sum(np.square(outputs - reference)))

    def outcome(self, truth: np.ndarray | None, reference: np.ndarray) -> Outcome:
        answers = np.concatenate(self.answers)
        return Outcome(
            answers=answers,
            correct=None if truth is None else answers == truth,
            agreement=float(np.mean(answers == reference)),
            sqnr_db=_decibels(self.signal, self.noise),
        )


def evaluate(
    sessions: Mapping[str, ort.InferenceSession],
    split: Split,
    *,
    reference: str,
    batch_size: int = 64,
    progress: Progress = SILENT,
) -> dict[str, Outcome]:
    """Answers of every session on every image of `split`; `reference` names the session they are compared
    with.

    The first output counts, flattened to [n, classes]. Sessions may have a fixed batch size and float16
    inputs. Raises StageFailed on no images, on outputs that are not finite or not of the reference's shape.
    """
    if len(split) == 0:
        raise StageFailed("there are no test images to measure on", fix="use more images or another split")
    tallies = {name: _Tally() for name in sessions}
    truth: list[np.ndarray] = []
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
        if batch.y is not None:
            truth.append(batch.y)
        progress.advance(len(batch))
    labels = np.concatenate(truth) if truth else None
    base = np.concatenate(tallies[reference].answers)
    return {name: tally.outcome(labels, base) for name, tally in tallies.items()}


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
