"""What a network gave for a batch, as distillation losses read it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Answers", "Pair"]


@dataclass(frozen=True)
class Pair:
    """Two inner tensors to be compared, by name, with their shapes for a batch of one."""

    student: str
    teacher: str
    student_shape: tuple[int, ...]
    teacher_shape: tuple[int, ...]

    @property
    def resolution(self) -> tuple[int, ...]:
        """Height and width where both have the same; nothing for other tensors."""
        ours, theirs = self.student_shape[2:], self.teacher_shape[2:]
        return ours if len(ours) == 2 and ours == theirs else ()


@dataclass(frozen=True, eq=False)
class Answers:
    """One network's side of a batch."""

    outputs: tuple[Tensor, ...]
    """All outputs, raw."""
    logits: Tensor
    """The first output; where the network ends in Softmax, its logarithm."""
    features: tuple[Tensor, ...] = ()
    """Inner tensors, one for each pair that the loss compares."""

    def with_features(self, features: tuple[Tensor, ...]) -> Answers:
        """The same with other features."""
        return replace(self, features=features)
