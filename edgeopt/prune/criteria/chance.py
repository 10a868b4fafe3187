"""The control."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from edgeopt.model import Model
from edgeopt.prune.criteria.scores import normalized
from edgeopt.prune.groups import Group
from edgeopt.spec import Spec
from edgeopt.stage import Context

__all__ = ["Random"]


class Random(Spec):
    """Chance, from the run's seed: what another criterion has to beat."""

    kind: Literal["random"] = "random"

    def scores(self, model: Model, groups: Sequence[Group], context: Context) -> list[np.ndarray]:
        """float64 [units] for each group."""
        rng = np.random.default_rng(context.seed)
        return [normalized(rng.random(len(group)) + 0.5) for group in groups]
