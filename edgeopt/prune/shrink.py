"""A smaller network out of a larger one: fewer residual blocks, the same share of the channels of every group.

Which channels leave together, how they are taken out and the proof that nothing else changed are those of pruning; the
channels of a group that go first are those nearest to its geometric median, which asks for no images.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from edgeopt.model import Model
from edgeopt.model.initialize import initialize
from edgeopt.model.profile import profile
from edgeopt.model.quantized import refuse_quantized
from edgeopt.model.reference import Shrink
from edgeopt.prune.accept import Proven, prune_proven
from edgeopt.prune.blocks import remove_blocks
from edgeopt.prune.choose import kept_units, round_up
from edgeopt.prune.criteria import GeometricMedian
from edgeopt.prune.equivalence import TOLERANCE
from edgeopt.prune.groups import Plan, make_plan
from edgeopt.prune.trace import trace
from edgeopt.stage import Context, StageResult

__all__ = ["shrink"]


def shrink(model: Model, settings: Shrink, context: Context) -> StageResult:
    """The smaller network, untrained, and what was taken out; `model` stays as it is.

    Widths are rounded up to multiples of `context.width_multiple`. Raises UsageError for a quantized model,
    StageFailed when its channels cannot be followed.
    """
    refuse_quantized(model)
    shallow, blocks, removed = remove_blocks(model, settings.depth)
    if settings.depth < 1 and not removed:
        context.progress.warn(f"depth={settings.depth:g} takes out none of {len(blocks)} residual blocks")
    plan = make_plan(trace(shallow))
    proven = _narrow(shallow, plan, settings.width, context)
    for name, reason in proven.refused.items():
        context.progress.warn(f"{name} is not narrowed: {reason}")
    student = proven.model if settings.init == "inherit" else initialize(proven.model, context.seed)
    before, after = profile(model), profile(student)
    facts: dict[str, Any] = {
        **settings.model_dump(mode="json"),
        "params_before": before.params,
        "params_after": after.params,
        "macs_before": before.macs,
        "macs_after": after.macs,
        "blocks": [block.name for block in blocks],
        "blocks_removed": [block.name for block in removed],
        "groups": [_width(plan, proven, number) for number in range(len(plan.groups))],
        "check": {"max_relative_difference": proven.difference.relative, "tolerance": TOLERANCE},
    }
    return StageResult(student, facts)


def _narrow(model: Model, plan: Plan, width: float, context: Context) -> Proven:
    """The share `width` of every group, proven."""
    scores = GeometricMedian().scores(model, plan.groups, context)
    scored = {group.slices: score for group, score in zip(plan.groups, scores, strict=True)}

    def pick(left: Plan) -> np.ndarray:
        counts = [
            round_up(group, math.ceil(width * len(group) - 1e-9), context.width_multiple) for group in left.groups
        ]
        return kept_units(left, [scored[group.slices] for group in left.groups], counts)

    return prune_proven(model, plan, pick, seed=context.seed)


def _width(plan: Plan, proven: Proven, number: int) -> dict[str, Any]:
    """Channels of the narrowest tensor that the group's units stand for, before and after."""
    group = plan.groups[number]
    left = next((own for own in proven.plan.groups if own.slices is group.slices), None)
    stays = len(group) if left is None else int(proven.kept[left.units].sum())
    each = group.channels_per_unit
    return {"name": group.name, "channels_before": len(group) * each, "channels_after": stays * each}
