"""How large a channel is made by the BatchNormalization behind it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from edgeopt.model import Model
from edgeopt.prune.criteria.scores import or_l2, sum_over
from edgeopt.prune.groups import Group
from edgeopt.spec import Spec
from edgeopt.stage import Context

__all__ = ["BatchNormScale"]


class BatchNormScale(Spec):
    """Absolute scale of the unit's BatchNormalizations, summed where there are several (Liu et al., Network Slimming,
    arXiv 1708.06519). It means most for a network that was trained with a penalty on these scales.

    A group without a BatchNormalization is ranked by L2, with a warning.
    """

    kind: Literal["bn_scale"] = "bn_scale"

    def scores(self, model: Model, groups: Sequence[Group], context: Context) -> list[np.ndarray]:
        """float64 [units] for each group; larger is more important."""
        weights = model.weights()
        scales = {n.inputs[1].name for n in model.graph.graph if n.op_type == "BatchNormalization" and n.inputs[1]}
        found: list[np.ndarray | None] = []
        for group in groups:
            parts = [part for part in group.slices if part.name in scales]
            found.append(sum_over(parts, weights, np.absolute, len(group)) if parts else None)
        scores, without = or_l2(model, groups, found)
        if without:
            context.progress.warn(f"ranked by l2, having no BatchNormalization: {without}")
        return scores
