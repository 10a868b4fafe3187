"""Arrays as a data set: samples without files."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgeopt.data import Data, Split
from edgeopt.quantize.samples import Samples


@dataclass(frozen=True)
class Arrays:
    """A Source that holds its samples."""

    samples: np.ndarray

    def __len__(self) -> int:
        return len(self.samples)

    def read(self, indices: np.ndarray) -> np.ndarray:
        return self.samples[indices]


def split_of(x: np.ndarray, labels: np.ndarray | None = None) -> Split:
    """All of `x` in order, model-ready."""
    return Split(Arrays(x), np.arange(len(x)), labels, None)


def data_of(x: np.ndarray, labels: np.ndarray | None = None) -> Data:
    """All of `x` in order as training, calibration and test samples alike."""
    split = split_of(x, labels)
    return Data("rows", split, split, split, (), None, "0" * 64)


def samples_of(x: np.ndarray) -> Samples:
    """All of `x` in order, for a model whose input is called x."""
    return Samples(split_of(x), ("x",))
