"""A tier's artifact: the one file that is shipped, checked against the tier and against the model it came
from.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgeopt.export.check import check_tier
from edgeopt.export.legalize import legalize, verify
from edgeopt.export.strip import strip
from edgeopt.model.model import Model
from edgeopt.model.profile import profile
from edgeopt.model.simplify import random_feeds
from edgeopt.progress import SILENT, Progress
from edgeopt.tiers import Tier

__all__ = ["make_artifact"]


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
    legal = legalize(model, tier, feeds=feeds, progress=progress)
    shipped = strip(legal) if tier.strip else legal
    check_tier(legal, tier, shipped.size_bytes, profile(legal, feeds=feeds))
    if tier.strip:
        verify(model, shipped, tier, feeds or random_feeds(model, 1))
    return shipped
