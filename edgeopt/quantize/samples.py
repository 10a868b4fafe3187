"""The calibration samples as a model is fed with them: by input name, any number of times, in batches of any size."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from edgeopt.data import Split
from edgeopt.data.feeds import feeds_for
from edgeopt.model.model import Model

__all__ = ["Samples", "samples_of"]


@dataclass(frozen=True)
class Samples:
    """Some samples in a fixed order, read anew for each pass: only the batch at hand is in memory."""

    split: Split
    names: tuple[str, ...]
    """The model's inputs."""

    def __len__(self) -> int:
        return len(self.split)

    def batches(self, size: int) -> Iterator[dict[str, np.ndarray]]:
        """Every sample once, in order, `size` at a time (the last batch may be smaller): input name -> [n, ...]."""
        for batch in self.split.batches(size):
            yield batch.feeds(self.names)

    def fitting(self, model: Model, size: int) -> Iterator[dict[str, np.ndarray]]:
        """As `batches`, or in batches of the model's fixed size; a short last one of these repeats its own samples."""
        return feeds_for(model, self.split, size)

    def take(self, count: int) -> Samples:
        """The first `count` of them (all, where there are fewer)."""
        return replace(self, split=self.split.take(np.arange(min(count, len(self)))))

    def split_off(self, count: int) -> tuple[Samples, Samples]:
        """All but the last `count`, and those; where there are too few to spare that many, all of them both times."""
        if len(self) < 2 * count:
            return self, self
        last = replace(self, split=self.split.take(np.arange(len(self) - count, len(self))))
        return self.take(len(self) - count), last


def samples_of(model: Model, split: Split, count: int, seed: int) -> Samples:
    """At most `count` samples of `split` for `model`, chosen by `seed`, balanced over the classes.

    The first k of them are balanced too. `batches` raises UsageError when the split has nothing for an input.
    """
    return Samples(split.sample(count, seed), tuple(info.name for info in model.inputs))
