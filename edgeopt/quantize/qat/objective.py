"""What the quantized network learns: the float model's answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from edgeopt.data import Split
from edgeopt.model.model import Model
from edgeopt.train.objectives import HardLabels, WithTeacher, first_output
from edgeopt.train.stage import check_labels, ends_in_softmax

if TYPE_CHECKING:
    from edgeopt.quantize.qat.spec import Qat

__all__ = ["Outputs", "choose_objective"]


class Outputs(nn.Module):
    """Mean squared difference from the teacher's first output, as a share of that output's variance in the batch.

    For networks that do not classify: boxes, masks, embeddings.
    """

    def __init__(self, teacher: nn.Module) -> None:
        super().__init__()
        self.teacher = teacher.eval().requires_grad_(False)

    def forward(self, outputs: Tensor | Sequence[Tensor], x: Tensor, labels: Tensor | None) -> Tensor:
        """The batch's loss; labels are not looked at."""
        with torch.no_grad():
            target = first_output(self.teacher(x))
        return nn.functional.mse_loss(first_output(outputs), target) / target.var().clamp_min(1e-12)


def choose_objective(settings: Qat, floating: Model, teacher: nn.Module, split: Split) -> nn.Module:
    """Soft targets and labels for outputs [n, classes], the outputs themselves for any other shape.

    Raises UsageError for labels that the outputs have no column for, or none where nothing else is to be learned.
    """
    if floating.meta.task != "classification" or len(floating.outputs[0].shape) != 2:
        return Outputs(teacher)
    if settings.alpha == 0 or (split.labels is not None and settings.alpha < 1):
        check_labels(floating, split, "qat")
    probabilities = ends_in_softmax(floating)
    labels = HardLabels(settings.label_smoothing, probabilities=probabilities)
    if settings.alpha == 0:
        return labels
    return WithTeacher(
        teacher,
        settings.temperature,
        settings.alpha,
        labels if settings.alpha < 1 else None,
        student_probabilities=probabilities,
        teacher_probabilities=probabilities,
    )
