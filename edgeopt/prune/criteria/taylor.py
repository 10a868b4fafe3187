"""What the loss would change by, to first order, if the channel were gone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from pydantic import Field

from edgeopt.model import Model
from edgeopt.prune.criteria.scores import normalized
from edgeopt.prune.groups import Group
from edgeopt.spec import Spec
from edgeopt.stage import Context

__all__ = ["Taylor"]


class Taylor(Spec):
    """Square of gradient times weight, summed over the unit before squaring, mean over batches (Molchanov et al., arXiv
    1906.10771, equation 9): the squared derivative of the loss by a gate on the unit.

    The gate stands where the unit is read: the sum runs over the weights that read it, which is also right where a
    BatchNormalization or an activation lies between the layer that makes it and those that read it. Units that no
    weight reads (the queries and keys of attention) are gated where they are made.
    """

    kind: Literal["taylor"] = "taylor"
    samples: int = Field(512, ge=1, description="training images looked at")

    def scores(self, model: Model, groups: Sequence[Group], context: Context) -> list[np.ndarray]:
        """float64 [units] for each group; larger is more important.

        The loss is cross-entropy with the labels; without labels, with answers drawn from the model's own distribution.
        Raises UsageError without images, or for an operator that has no gradient.
        """
        from edgeopt.prune.criteria.gradients import squared_gates

        data = context.need_data("the criterion taylor")
        split = data.train.sample(self.samples, context.seed)
        return [normalized(score) for score in squared_gates(model, groups, split, context)]
