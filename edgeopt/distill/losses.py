"""Distillation losses a recipe can name. Another loss is one more Spec here with an `objective` method.

The formulas are in `edgeopt.train.losses`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from edgeopt.spec import Spec

if TYPE_CHECKING:
    from torch import nn

    from edgeopt.train.objectives import HardLabels, WithTeacher

__all__ = ["Loss", "SoftTargets"]


class SoftTargets(Spec):
    """The teacher's softened probabilities beside the labels (Hinton et al., arXiv 1503.02531)."""

    kind: Literal["soft_targets"] = "soft_targets"
    temperature: float = Field(4.0, gt=0, description="divides the logits of both; more is softer")
    alpha: float = Field(
        0.9, ge=0, le=1, description="weight of the soft targets, the labels have the rest; 1 without labels"
    )

    def objective(self, teacher: nn.Module, labels: HardLabels | None, *, probabilities: bool) -> WithTeacher:
        """The objective with `teacher` (its outputs are logits). `labels` None: the soft targets alone.

        `probabilities`: the student ends in Softmax.
        """
        from edgeopt.train.objectives import WithTeacher

        return WithTeacher(teacher, self.temperature, self.alpha, labels, student_probabilities=probabilities)


Loss = SoftTargets
