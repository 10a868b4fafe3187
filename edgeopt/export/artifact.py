"""A tier's artifact: the one file that is shipped, checked against the tier and against the model it came
from.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgeopt.atomic import write_atomic
from edgeopt.export.check import check_tier
from edgeopt.export.legalize import legalize, verify
from edgeopt.export.precision import precision_of
from edgeopt.export.strip import strip
from edgeopt.model.model import Model
from edgeopt.model.profile import profile
from edgeopt.model.simplify import random_feeds
from edgeopt.progress import SILENT, Progress
from edgeopt.tiers import Tier
from edgeopt.tiers.tier import Precision

__all__ = ["Artifact", "make_artifact", "write_artifact"]


@dataclass(frozen=True)
class Artifact:
    """A written file and what it is."""

    path: Path
    tier: str
    sha256: str
    size_bytes: int
    precision: Precision


def make_artifact(
    model: Model,
    tier: Tier,
    *,
    feeds: Mapping[str, np.ndarray] | None = None,
    progress: Progress = SILENT,
) -> Model:
    """The model in the tier's form, which meets the tier; `feeds` is one sample it is tried on (none: noise).

    Raises StageFailed naming every limit that it does not meet.
    """
    feeds = feeds or random_feeds(model, 1)
    legal = legalize(model, tier, feeds=feeds, progress=progress)
    shipped = strip(legal) if tier.strip else legal
    check_tier(legal, tier, len(shipped.to_bytes()), profile(legal))
    if tier.strip:
        verify(model, shipped, tier, feeds)
    return shipped


def write_artifact(model: Model, tier: Tier, folder: Path, *, progress: Progress = SILENT) -> Artifact:
    """Write `folder/model.onnx` for `tier`, atomically.

    Its bytes are run beside `model` in onnxruntime before they appear. Raises StageFailed when the tier is not
    met, the file cannot be written, or onnxruntime computes something else from it; what was there stays.
    """
    legal = make_artifact(model, tier, progress=progress)
    content = legal.to_bytes()
    path = folder / "model.onnx"
    write_atomic(path, content)
    return Artifact(path, tier.name, hashlib.sha256(content).hexdigest(), len(content), precision_of(legal))
