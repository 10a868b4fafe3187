"""LeastSquares, as a recipe names it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field

from edgeopt.model import Model
from edgeopt.spec import Spec
from edgeopt.stage import Context, StageResult

__all__ = ["LeastSquares", "correct"]


class LeastSquares(Spec):
    """Fits every layer behind the first narrowed tensor anew: what it now reads shall give what the original computed.

    Layer by layer, in the order of the graph: the inputs are those of the pruned network with the layers before already
    corrected, the targets the original's outputs at the channels that stay. The fit is a ridge regression for the
    change of the weights, whose strength is chosen for each layer on samples held out from the fit; the bias, or the
    BatchNormalization behind the layer, takes the means. Statistics of BatchNormalizations become those of the samples.

    Sources: Luo et al., ThiNet, arXiv 1707.06342; He et al., arXiv 1707.06168 (targets from the original network).
    """

    samples: int = Field(
        512,
        ge=8,
        description="training images to fit to, fewer where activations are wide; a quarter more judge",
    )
    rows: int = Field(16384, ge=64, description="places of a layer's output that it looks at, all images together")


def correct(
    original: Model,
    pruned: Model,
    record: Sequence[Mapping[str, Any]],
    context: Context,
    settings: LeastSquares,
) -> StageResult:
    """`pruned` with other weights in the layers behind the narrowed tensors; graph, names and shapes stay.

    `record` says what of `original` was kept (see `surgery.remove`). The result is `pruned` itself when the outputs are
    no nearer to the original's on images that were not fitted to. Facts: layers changed and left (name -> why),
    relative output error before and after on those images, seconds. Memory: one layer's second moments a few times,
    and a batch; on disk the activations that cross one place of the graph (1 GiB of each model at most).
    Raises UsageError without images.
    """
    from edgeopt.prune.batches import affordable
    from edgeopt.prune.correct.sweep import Sweep

    split = context.need_data("the correction of a pruned network").train
    samples = affordable(original, settings.samples)
    count = samples + -(-samples // 4)
    return Sweep(original, pruned, record, split.sample(count, context.seed), context).run(settings.rows)
