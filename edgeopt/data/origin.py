"""What the kinds of source have in common: each opens into `Samples`, and one path leads on from there."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from edgeopt.data.data import Source
from edgeopt.model import Preprocess
from edgeopt.progress import Progress

__all__ = ["Inspection", "Origin", "Samples", "digest_rows"]


@dataclass(frozen=True)
class Inspection:
    """What a look at some samples brought to light."""

    digests: np.ndarray | None
    """S32 [n]: SHA-256 of each sample's content; None when the source is too slow to look at every sample."""
    content: str
    """SHA-256 of all that was looked at, in order: the samples' part of the data's fingerprint."""
    unreadable: dict[int, str] = field(default_factory=dict)
    """Position among the samples looked at -> `file: reason`."""


class Samples(Protocol):
    """An opened source: every sample it has, training and test together."""

    @property
    def source(self) -> Source:
        """Reads any of the samples."""

    @property
    def labels(self) -> np.ndarray | None:
        """int64 [n] class numbers; None when there are none."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names; empty when the source has only numbers, or nothing."""

    @property
    def boxes(self) -> np.ndarray | None:
        """As `Split.boxes`; None when there are none."""

    @property
    def test(self) -> np.ndarray | None:
        """bool [n]: which are the source's own test samples; None: it has no test split of its own."""

    def inspect(self, indices: np.ndarray, progress: Progress) -> Inspection:
        """Look at the samples that will be used: digest them and find the unreadable ones."""


class Origin(Protocol):
    """A source that was found, of which no image has been read yet."""

    @property
    def name(self) -> str:
        """Short name for reports."""

    @property
    def model_ready(self) -> bool:
        """Its samples are float32 in the model's layout: there is nothing to preprocess."""

    @property
    def preprocess(self) -> Preprocess | None:
        """What the source itself says about preprocessing, if anything."""

    def guess_preprocess(self) -> Preprocess | None:
        """What its images look like, for when neither recipe, model nor source says anything."""

    def open(self, preprocess: Preprocess | None, progress: Progress) -> Samples:
        """The samples, read with `preprocess`. Raises UsageError naming what is wrong with the source."""


def digest_rows(rows: np.ndarray) -> np.ndarray:
    """S32 [n]: SHA-256 of each row's bytes."""
    contiguous = np.ascontiguousarray(rows)
    return np.array([hashlib.sha256(row).digest() for row in contiguous], "V32")
