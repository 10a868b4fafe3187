"""What a run minimises: a module that turns a network's outputs for a batch into one loss.

An objective is a `torch.nn.Module` so that whatever it holds (a teacher, one day a learned projection) moves
to the device with it and counts in the checkpoint's key.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

from edgeopt.train.losses import cross_entropy, log_probabilities, soft_targets

__all__ = ["HardLabels", "Objective", "WithTeacher", "first_output"]


class Objective(Protocol):
    """`objective(outputs, x, labels) -> loss`, a scalar tensor. `labels` is int64 [n] or None."""

    def __call__(self, outputs: Tensor, x: Tensor, labels: Tensor | None, /) -> Tensor: ...


class HardLabels(nn.Module):
    """Cross-entropy with the labels.

    `probabilities`: the network ends in Softmax, so its outputs are probabilities and not logits.
    """

    def __init__(self, label_smoothing: float = 0.0, *, probabilities: bool = False) -> None:
        super().__init__()
        self.label_smoothing, self.probabilities = label_smoothing, probabilities

    def forward(self, outputs: Tensor, x: Tensor, labels: Tensor | None) -> Tensor:
        """Mean loss of the batch. `labels` must be there."""
        assert labels is not None, "hard labels need labels; stages check this before training"
        logits = log_probabilities(outputs) if self.probabilities else outputs
        return cross_entropy(logits, labels, self.label_smoothing)


class WithTeacher(nn.Module):
    """alpha * soft targets + (1 - alpha) * `labels`: Hinton's distillation (arXiv 1503.02531).

    The teacher sees the very batch that the student sees, augmentation included ("consistent teaching", Beyer
    et al., arXiv 2106.05237). `labels=None`, or a data set without labels, leaves the soft targets alone.
    `student_probabilities`, `teacher_probabilities`: that network ends in Softmax.
    """

    def __init__(
        self,
        teacher: nn.Module,
        temperature: float = 4.0,
        alpha: float = 0.9,
        labels: HardLabels | None = None,
        *,
        student_probabilities: bool = False,
        teacher_probabilities: bool = False,
    ) -> None:
        super().__init__()
        self.teacher = teacher.eval().requires_grad_(False)
        self.labels = labels
        self.temperature, self.alpha = temperature, alpha
        self.student_probabilities, self.teacher_probabilities = student_probabilities, teacher_probabilities

    def forward(self, outputs: Tensor, x: Tensor, labels: Tensor | None) -> Tensor:
        """Mean loss of the batch."""
        student = log_probabilities(outputs) if self.student_probabilities else outputs
        soft = soft_targets(student, self.teach(x), self.temperature)
        if labels is None or self.labels is None:
            return soft
        hard: Tensor = self.labels(outputs, x, labels)
        return self.alpha * soft + (1 - self.alpha) * hard

    def teach(self, x: Tensor) -> Tensor:
        """The teacher's logits [n, classes] for the batch, without gradient."""
        with torch.inference_mode():
            outputs = first_output(self.teacher(x))
        logits = outputs.clone()  # a loss may save it for the backward pass, which inference tensors refuse
        return log_probabilities(logits) if self.teacher_probabilities else logits


def first_output(outputs: Tensor | tuple[Tensor, ...] | list[Tensor]) -> Tensor:
    """The output that losses are taken of: the only one, or the first of several."""
    return outputs if isinstance(outputs, Tensor) else outputs[0]
