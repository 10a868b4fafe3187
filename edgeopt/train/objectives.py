"""What a run minimises: a module that turns a network's outputs for a batch into one loss.

An objective is a `torch.nn.Module` so that whatever it holds (a teacher, a learned projection) moves to the device
with it and counts in the checkpoint's key. Parameters of its own that want a gradient are trained with the network.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from edgeopt.train.losses import cross_entropy, log_probabilities, soft_targets

__all__ = [
    "HardLabels",
    "Located",
    "Objective",
    "Outputs",
    "WithTeacher",
    "all_outputs",
    "ask",
    "first_output",
    "own_parameters",
]

Outputs = Tensor | Sequence[Tensor]
"""What a network returns: its only output, or all of them."""


class Objective(Protocol):
    """`objective(outputs, x, labels) -> loss`, a scalar tensor.

    `outputs` is all that the network returned; `labels` is int64 [n], shares of the classes [n, classes], or None.
    """

    def __call__(self, outputs: Outputs, x: Tensor, labels: Tensor | None, /) -> Tensor: ...


@runtime_checkable
class Located(Protocol):
    """An objective that wants to know which samples come, and as what."""

    def locate(self, view: int, rows: np.ndarray) -> None:
        """Told before each batch: positions in the split int64 [n], and the number of the view.

        The same rows of the same view are the same tensor `x`, in every epoch.
        """
        ...


class HardLabels(nn.Module):
    """Cross-entropy with the labels.

    `probabilities`: the network ends in Softmax, so its outputs are probabilities and not logits.
    """

    def __init__(self, label_smoothing: float = 0.0, *, probabilities: bool = False) -> None:
        super().__init__()
        self.label_smoothing, self.probabilities = label_smoothing, probabilities

    def forward(self, outputs: Outputs, x: Tensor, labels: Tensor | None) -> Tensor:
        """Mean loss of the batch. `labels` must be there."""
        assert labels is not None, "hard labels need labels; stages check this before training"
        first = first_output(outputs)
        logits = log_probabilities(first) if self.probabilities else first
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
        labels: nn.Module | None = None,
        *,
        student_probabilities: bool = False,
        teacher_probabilities: bool = False,
    ) -> None:
        super().__init__()
        self.teacher = teacher.eval().requires_grad_(False)
        self.labels = labels
        self.temperature, self.alpha = temperature, alpha
        self.student_probabilities, self.teacher_probabilities = student_probabilities, teacher_probabilities

    def forward(self, outputs: Outputs, x: Tensor, labels: Tensor | None) -> Tensor:
        """Mean loss of the batch."""
        first = first_output(outputs)
        student = log_probabilities(first) if self.student_probabilities else first
        soft = soft_targets(student, self.teach(x), self.temperature)
        if labels is None or self.labels is None:
            return soft
        hard: Tensor = self.labels(outputs, x, labels)
        return self.alpha * soft + (1 - self.alpha) * hard

    def teach(self, x: Tensor) -> Tensor:
        """The teacher's logits [n, classes] for the batch, without gradient."""
        logits = ask(self.teacher, x)[0]
        return log_probabilities(logits) if self.teacher_probabilities else logits


def ask(teacher: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
    """All that `teacher` answers to a batch, fp32 and without gradient."""
    with torch.inference_mode():
        outputs = all_outputs(teacher(x))
    # a loss may save them for the backward pass, which inference tensors refuse
    return tuple(output.clone() if output.dtype == torch.float32 else output.float() for output in outputs)


def all_outputs(outputs: Outputs) -> tuple[Tensor, ...]:
    """The outputs as a tuple, one or several."""
    return (outputs,) if isinstance(outputs, Tensor) else tuple(outputs)


def first_output(outputs: Outputs) -> Tensor:
    """The output that losses are taken of: the only one, or the first of several."""
    return outputs if isinstance(outputs, Tensor) else outputs[0]


def own_parameters(objective: Objective) -> dict[str, nn.Parameter]:
    """What the objective itself learns, by name: nothing of a teacher, whose parameters want no gradient."""
    named = objective.named_parameters() if isinstance(objective, nn.Module) else ()
    return {name: parameter for name, parameter in named if parameter.requires_grad}
