"""What the layers that read a channel lose when it is gone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from pydantic import Field

from edgeopt.model import Model
from edgeopt.prune.criteria.scores import or_l2
from edgeopt.prune.groups import Group
from edgeopt.spec import Spec
from edgeopt.stage import Context

__all__ = ["Reconstruction"]


class Reconstruction(Spec):
    """Error of the outputs of the layers that read the unit, relative to these outputs, when it is gone and the other
    inputs' weights have been fitted to make good what they can.

    Units leave one small lot after the other, the cheapest first, and each is charged what its own leaving costs, so
    that of two channels which say the same one goes early and the other late. Everything follows from the second
    moments of the readers' inputs. Sources: Luo et al., ThiNet, arXiv 1707.06342, and He et al., arXiv 1707.06168, for
    choosing channels by what the next layer loses; Hassibi and Stork 1993 (optimal brain surgeon) for the closed form.

    A group that no matrix or kernel reads (queries and keys of attention, say) is ranked by L2, with a warning.
    """

    kind: Literal["reconstruction"] = "reconstruction"
    samples: int = Field(
        256, ge=1, description="training images looked at, fewer where activations are wide; no labels are needed"
    )
    rows: int = Field(16384, ge=64, description="places of a layer's output looked at, all images together")

    def scores(self, model: Model, groups: Sequence[Group], context: Context) -> list[np.ndarray]:
        """float64 [units] for each group; larger is more important. Raises UsageError without images.

        Memory: a matrix of the inputs' number squared for each layer that reads one group, and a batch; on disk the
        activations that cross one place of the graph (1 GiB at most).
        """
        from edgeopt.prune.criteria.elimination import reading_losses

        data = context.need_data("the criterion reconstruction")
        split = data.train.sample(self.samples, context.seed)
        scores, without = or_l2(model, groups, reading_losses(model, groups, split, self.rows, context))
        if without:
            context.progress.warn(f"ranked by l2, as no layer that can be fitted reads them: {without}")
        return scores
