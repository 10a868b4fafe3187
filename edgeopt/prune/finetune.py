"""Fine-tuning a pruned network on labels and on what the unpruned one answers."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from edgeopt.data import Split
from edgeopt.model import Model
from edgeopt.model.runtime import open_session, run
from edgeopt.model.to_torch import from_torch, to_torch
from edgeopt.stage import Context
from edgeopt.train.boxes import WithBoxTeacher
from edgeopt.train.fit import Stopped, fit
from edgeopt.train.objectives import WithTeacher
from edgeopt.train.settings import Fit
from edgeopt.train.stage import ends_in_softmax, label_objective

__all__ = ["Tuned", "finetune"]

JUDGED = 1000
"""Training images by which an interrupted run tells whether it has gained anything yet."""
BATCH = 64


@dataclass(frozen=True, eq=False)
class Tuned:
    """A network after fine-tuning, and the history of it, one entry for each finished epoch."""

    model: Model
    history: list[dict[str, Any]] = field(default_factory=list)
    stopped: bool = False
    """Ctrl-C ended it."""


def finetune(
    pruned: Model,
    teacher: Model,
    settings: Fit,
    context: Context,
    *,
    temperature: float,
    alpha: float,
    scratch: Path | None,
    label: str = "fine-tuning",
) -> Tuned:
    """Train `pruned` towards alpha * the teacher's soft targets + (1 - alpha) * labels.

    Ctrl-C hands back the network as it is then, or `pruned` where that answers more training images right. Raises
    UsageError where images or labels do not fit, StageFailed on divergence.
    """
    split = context.need_data("prune with finetune").train
    labels = None
    if split.truth is not None or alpha == 0:
        labels = label_objective(pruned, split, settings, "prune with finetune")
    objective = labels if labels is not None and alpha == 0 else _taught(pruned, teacher, labels, temperature, alpha)
    module = to_torch(pruned)
    try:
        history = fit(
            module,
            split,
            settings,
            objective,
            seed=context.seed,
            progress=context.progress,
            scratch=scratch,
            label=label,
        )
    except Stopped as stopped:
        best = _better(pruned, from_torch(module, pruned), teacher, split.sample(JUDGED, context.seed))
        return Tuned(best, stopped.history, stopped=True)
    return Tuned(from_torch(module, pruned), history)


def _taught(pruned: Model, teacher: Model, labels: nn.Module | None, temperature: float, alpha: float) -> nn.Module:
    """What the unpruned network answers, and `labels` beside it."""
    if pruned.meta.anchors is not None:
        return WithBoxTeacher(to_torch(teacher), temperature, alpha, labels)
    probabilities = ends_in_softmax(pruned)
    return WithTeacher(
        to_torch(teacher),
        temperature,
        alpha,
        labels,
        student_probabilities=probabilities,
        teacher_probabilities=probabilities,
    )


def _better(before: Model, after: Model, teacher: Model, images: Split) -> Model:
    """The one that answers more images right (as the teacher does, where there are no labels)."""
    truth = _answers(teacher, images) if images.labels is None else images.labels
    right = [int((_answers(model, images) == truth).sum()) for model in (before, after)]
    return after if right[1] >= right[0] else before


def _answers(model: Model, images: Split) -> np.ndarray:
    session, fixed = open_session(model), model.fixed_batch
    answers = []
    for batch in images.batches(fixed or BATCH):
        x = batch.x if fixed is None else np.resize(batch.x, (fixed, *batch.x.shape[1:]))
        outputs = run(session, x)[0][: len(batch)]
        answers.append(outputs.reshape(len(outputs), -1).argmax(axis=1))
    return np.concatenate(answers)
