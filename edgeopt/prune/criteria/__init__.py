"""Which units of a group matter least.

A criterion is a Spec with a `scores` method, a file each; the union at the end is the only list of them. Scores are
normalised to a mean of 1 within each group, so that groups can be ranked against one another.
"""

from typing import Annotated

from pydantic import Field

from edgeopt.prune.criteria.batchnorm import BatchNormScale
from edgeopt.prune.criteria.chance import Random
from edgeopt.prune.criteria.magnitude import L1, L2
from edgeopt.prune.criteria.median import GeometricMedian
from edgeopt.prune.criteria.reconstruction import Reconstruction
from edgeopt.prune.criteria.taylor import Taylor

__all__ = ["L1", "L2", "BatchNormScale", "Criterion", "GeometricMedian", "Random", "Reconstruction", "Taylor"]

Criterion = Annotated[
    L2 | L1 | BatchNormScale | GeometricMedian | Taylor | Reconstruction | Random, Field(discriminator="kind")
]
