"""Prune: narrower layers, proved equal to the masked original, then fine-tuned."""

from __future__ import annotations

import json
import time
from typing import Any, Literal

import numpy as np
from pydantic import Field

from edgeopt.model import Model
from edgeopt.model.profile import profile
from edgeopt.model.quantized import refuse_quantized
from edgeopt.prune.accept import Proven, prune_proven
from edgeopt.prune.choose import Ranking, choose
from edgeopt.prune.cost import Cost
from edgeopt.prune.criteria import L2, Criterion
from edgeopt.prune.equivalence import TOLERANCE
from edgeopt.prune.groups import Plan, make_plan
from edgeopt.prune.target import Target
from edgeopt.prune.trace import trace
from edgeopt.stage import Context, Stage, StageResult
from edgeopt.train.settings import FineTune, Fit

__all__ = ["Prune"]


class Prune(Stage):
    """Remove channels until the target is reached, then fine-tune with the unpruned model as teacher."""

    kind: Literal["prune"] = "prune"
    target: Target = Field(description="what has to go: params=-60%, macs=-50%")
    criterion: Criterion = Field(L2(), description="which channels go first")
    ranking: Ranking = Field(
        "local", description="local: the same share of every group; global: one threshold for all groups"
    )
    round_to: int | None = Field(
        None, ge=1, description="widths are rounded up to multiples of this; none: what the run's tiers like"
    )
    finetune: FineTune | None = Field(FineTune(), description="training afterwards; none: no images are needed")
    temperature: float = Field(4.0, gt=0, description="of the unpruned model's soft targets in fine-tuning")
    alpha: float = Field(
        0.9, ge=0, le=1, description="weight of the soft targets, the labels have the rest; 0: labels alone"
    )
    time_limit: float = Field(60.0, gt=0, description="seconds that following the channels may take")

    def apply(self, model: Model, context: Context) -> StageResult:
        """The pruned model. Raises StageFailed when the target cannot be reached, UsageError without images."""
        began = time.perf_counter()
        refuse_quantized(model)
        if self.finetune is not None:
            context.need_data("prune with finetune")
        plan = make_plan(trace(model, self.time_limit))
        for node, operator in plan.trace.unknown.items():
            context.progress.warn(f"no pruning rule for {operator} ({node}): the channels that reach it stay")
        proven = prune_proven(model, plan, lambda left: self._choose(model, left, context), seed=context.seed)
        for name, reason in proven.refused.items():
            context.progress.warn(f"{name} is not narrowed: {reason}")
        facts = _facts(model, proven) | {"prune_seconds": time.perf_counter() - began}
        pruned = proven.model
        if self.finetune is not None:
            pruned, history = self._finetune(pruned, model, self.finetune, context)
            facts |= {"epochs": self.finetune.epochs, "history": history}
        facts |= {"seconds": time.perf_counter() - began}
        return StageResult(pruned, facts, {"pruned.json": json.dumps(proven.record)})

    def _choose(self, model: Model, plan: Plan, context: Context) -> np.ndarray:
        scores = self.criterion.scores(model, plan.groups, context)
        multiple = self.round_to or context.width_multiple
        return choose(plan, scores, self.target, Cost(model, plan), self.ranking, multiple)

    def _finetune(
        self, pruned: Model, original: Model, settings: Fit, context: Context
    ) -> tuple[Model, list[dict[str, Any]]]:
        """Train the pruned model on labels and on what the unpruned one answers."""
        from edgeopt.model.to_torch import from_torch, to_torch
        from edgeopt.train.fit import fit
        from edgeopt.train.objectives import HardLabels, WithTeacher
        from edgeopt.train.stage import check_labels, ends_in_softmax

        split = context.need_data("prune with finetune").train
        if split.labels is not None or self.alpha == 0:
            check_labels(pruned, split, "prune with finetune")
        probabilities = ends_in_softmax(pruned)
        labels = HardLabels(settings.label_smoothing, probabilities=probabilities)
        taught = WithTeacher(
            to_torch(original),
            self.temperature,
            self.alpha,
            labels,
            student_probabilities=probabilities,
            teacher_probabilities=probabilities,
        )
        module = to_torch(pruned)
        history = fit(
            module,
            split,
            settings,
            taught if self.alpha > 0 else labels,
            seed=context.seed,
            progress=context.progress,
            scratch=context.scratch,
            label="fine-tuning",
        )
        return from_torch(module, pruned), history


def _facts(model: Model, proven: Proven) -> dict[str, Any]:
    before, after = profile(model), profile(proven.model)
    kept, plan = proven.kept, proven.plan
    return {
        "params_before": before.params,
        "params_after": after.params,
        "macs_before": before.macs,
        "macs_after": after.macs,
        "groups": [
            {
                "name": group.name,
                "channels_before": len(group) * group.channels_per_unit,
                "channels_after": int(kept[group.units].sum()) * group.channels_per_unit,
            }
            for group in plan.groups
        ],
        "pinned": [{"reason": reason, "weights": list(names)} for reason, names in plan.pinned.items()]
        + [{"reason": reason, "weights": [name]} for name, reason in proven.refused.items()],
        "unknown_operators": sorted(set(plan.trace.unknown.values())),
        "check": {"max_relative_difference": proven.difference.relative, "tolerance": TOLERANCE},
    }
