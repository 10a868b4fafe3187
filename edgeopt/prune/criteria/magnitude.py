"""How large the weights are that make a channel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from edgeopt.model import Model
from edgeopt.prune.criteria.scores import l2, normalized, producing, sum_over
from edgeopt.prune.groups import Group
from edgeopt.spec import Spec
from edgeopt.stage import Context

__all__ = ["L1", "L2"]


class L2(Spec):
    """Euclidean norm of everything that produces the unit's channels (Li et al., arXiv 1608.08710, per group)."""

    kind: Literal["l2"] = "l2"

    def scores(self, model: Model, groups: Sequence[Group], context: Context) -> list[np.ndarray]:
        """float64 [units] for each group; larger is more important."""
        weights = model.weights()
        return [normalized(l2(group, weights)) for group in groups]


class L1(Spec):
    """Sum of the absolute weights that produce the unit's channels."""

    kind: Literal["l1"] = "l1"

    def scores(self, model: Model, groups: Sequence[Group], context: Context) -> list[np.ndarray]:
        """float64 [units] for each group; larger is more important."""
        weights = model.weights()
        return [normalized(sum_over(producing(group, weights), weights, np.absolute, len(group))) for group in groups]
