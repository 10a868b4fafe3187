"""How much accuracy a candidate loses against the float model, on images that calibration did not see.

Test images are for the report; a choice made on them would make it look better than it is. What is left is training
images: those beyond the calibration samples, and the calibration samples themselves only where there are no others. A
network knows its training images well, so the drop on them tends to be smaller than on new ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from edgeopt.data import Split
from edgeopt.measure.statistics import paired_drop
from edgeopt.model.model import Model
from edgeopt.quantize.samples import Samples
from edgeopt.quantize.sensitivity import Tally
from edgeopt.stage import Context
from edgeopt.tiers import Tier

__all__ = ["JUDGED", "Judge", "Verdict", "images_to_judge"]

JUDGED = 2000
"""Images that candidates are judged on, where there are so many: one of them is 0.05 points."""
FEWEST = 100
"""With fewer fresh images than this the calibration samples are judged on too: a drop of a point would not show."""
BATCH = 32
KEPT_BYTES = 64 * 2**20
"""Float outputs kept for the SQNR, of the first images."""


@dataclass(frozen=True)
class Verdict:
    """What a candidate loses: percentage points with their 95 % interval, and the SQNR of its first output."""

    drop_points: float
    low_points: float
    high_points: float
    sqnr_db: float


def images_to_judge(samples: Samples, context: Context) -> tuple[Split, str]:
    """Images to judge on, and which they are in words: training images that are not among `samples` if possible."""
    if context.data is None:
        return samples.split, "the calibration samples"
    train = context.data.train
    fresh = np.flatnonzero(~np.isin(train.index, samples.split.index))
    if len(fresh) >= FEWEST:
        return train.take(fresh).sample(JUDGED, context.seed), "training images beyond the calibration samples"
    if len(train) > len(samples):
        return train.sample(JUDGED, context.seed), "training images, the calibration samples among them"
    return samples.split, "the calibration samples"


class Judge:
    """The float model's answers, and the comparison of candidates with them.

    With labels a drop is of accuracy; without, the share of images that are answered as in float (top-1 agreement)
    stands in for it. Answers are the index of the largest value of the first output.
    """

    def __init__(self, model: Model, images: Split, tier: Tier, context: Context) -> None:
        self._images = images
        self._names = tuple(info.name for info in model.inputs)
        self._tier = tier
        self._context = context
        first = model.inputs[0].shape[0] if model.inputs[0].shape else 1
        self._fixed = first if isinstance(first, int) else None
        self.measure = "agreement" if images.labels is None else "accuracy"
        self._kept: list[np.ndarray] = []
        self._answers = np.zeros(0, np.int64)
        self._remember(model)

    def __len__(self) -> int:
        return len(self._images)

    def judge(self, model: Model, label: str = "accuracy") -> Verdict:
        """What `model` loses; `label` is for the progress display. Raises StageFailed when it cannot be run."""
        answers, tally = [], Tally()
        for position, outputs in enumerate(self._outputs(model, label)):
            answers.append(outputs.argmax(axis=1))
            if position < len(self._kept):
                tally.add(self._kept[position], outputs)
        truth = self._answers if self._images.labels is None else self._images.labels
        right = np.concatenate(answers) == truth
        drop, low, high = paired_drop(self._answers == truth, right)
        return Verdict(drop, low, high, tally.decibels)

    def _remember(self, model: Model) -> None:
        answers, room = [], KEPT_BYTES
        for outputs in self._outputs(model, "accuracy in float"):
            answers.append(outputs.argmax(axis=1))
            room -= outputs.nbytes
            if room >= 0 or not self._kept:
                self._kept.append(outputs)
        self._answers = np.concatenate(answers)

    def _outputs(self, model: Model, label: str) -> Iterator[np.ndarray]:
        """The first output, float [n, values], batch by batch."""
        from edgeopt.model.runtime import open_session, run

        session = open_session(model, entries=self._tier.session)
        self._context.progress.start(label, len(self._images))
        for batch in self._images.batches(self._fixed or BATCH):
            feeds, count = batch.feeds(self._names), len(batch.index)
            if self._fixed is not None and count < self._fixed:  # a short last batch is filled with its own images
                feeds = {name: np.resize(array, (self._fixed, *array.shape[1:])) for name, array in feeds.items()}
            first = run(session, feeds)[0]
            yield first.reshape(len(first), -1)[:count]
            self._context.progress.advance(count)
