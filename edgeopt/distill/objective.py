"""What a student minimises: its losses against the teacher, and the labels beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from edgeopt.distill.answers import Answers, Pair
from edgeopt.distill.cache import Kept
from edgeopt.distill.losses import Comparison
from edgeopt.spec import digest
from edgeopt.train.losses import log_probabilities
from edgeopt.train.objectives import Outputs, all_outputs, ask

__all__ = ["Imitation", "Part", "Side"]


@dataclass(frozen=True)
class Side:
    """How the tensors that a network returns are to be read."""

    outputs: int = 1
    """How many are its outputs; the others are inner tensors."""
    places: dict[str, int] = field(default_factory=dict)
    """Inner tensor -> position."""
    probabilities: bool = False
    """It ends in Softmax."""


@dataclass(frozen=True)
class Part:
    """One loss, and the inner tensors that it compares (none for losses on outputs)."""

    loss: Comparison
    pairs: tuple[Pair, ...] = ()


class Imitation(nn.Module):
    """The weighted sum of `parts` against `teacher`, and `labels_weight` times `labels` where the data has labels.

    The teacher sees the very batch that the student sees, augmentation included ("consistent teaching", Beyer
    et al., arXiv 2106.05237). It returns all its tensors, the first as logits, as `Teacher` does; projections that
    a loss learns are parameters of this module, drawn from `seed`.
    """

    settings: Tensor

    def __init__(
        self,
        teacher: nn.Module,
        parts: Sequence[Part],
        labels: nn.Module | None = None,
        labels_weight: float = 0.0,
        *,
        student_side: Side,
        teacher_side: Side,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.teacher = teacher.eval().requires_grad_(False)
        self.parts = tuple(parts)
        self.labels, self.labels_weight = labels, labels_weight
        self.student_side, self.teacher_side = student_side, teacher_side
        with torch.random.fork_rng([]):
            torch.manual_seed(seed)
            self.projections = nn.ModuleList(_projections(part) for part in self.parts)
        # in the state, so that a checkpoint of other losses is another run's
        said = [[part.loss.model_dump(mode="json") for part in self.parts], labels_weight if labels else None]
        self.register_buffer("settings", torch.tensor(list(bytes.fromhex(digest(said))), dtype=torch.uint8))

    def locate(self, view: int, rows: np.ndarray) -> None:
        """See `edgeopt.train.objectives.Located`."""
        if isinstance(self.teacher, Kept):
            self.teacher.locate(view, rows)

    def forward(self, outputs: Outputs, x: Tensor, labels: Tensor | None) -> Tensor:
        """Mean loss of the batch."""
        student, teacher = all_outputs(outputs), ask(self.teacher, x)
        ours, theirs = _as_student(student, self.student_side), _as_teacher(teacher, self.teacher_side)
        total = torch.zeros((), device=x.device)
        for part, projections in zip(self.parts, self.projections, strict=True):
            seen = [student[self.student_side.places[pair.student]] for pair in part.pairs]
            target = tuple(teacher[self.teacher_side.places[pair.teacher]] for pair in part.pairs)
            if part.loss.projects:
                assert isinstance(projections, nn.ModuleList)
                seen = [projection(one) for projection, one in zip(projections, seen, strict=True)]
            with torch.autocast(x.device.type, enabled=False):
                loss = part.loss.compare(ours.with_features(tuple(seen)), theirs.with_features(target), labels)
            total = total + part.loss.weight * loss
        if labels is not None and self.labels is not None:
            total = total + self.labels_weight * self.labels(outputs, x, labels)
        return total


class Projection(nn.Module):
    """Channels to channels at every place: a 1x1 convolution of images, a linear layer of [n, c] or [n, tokens, c]."""

    def __init__(self, pair: Pair) -> None:
        super().__init__()
        axis = 1 if len(pair.student_shape) == 4 else -1
        inside, outside = pair.student_shape[axis], pair.teacher_shape[axis]
        self.layer = nn.Conv2d(inside, outside, 1) if axis == 1 else nn.Linear(inside, outside)

    def forward(self, x: Tensor) -> Tensor:
        """The student's tensor with the teacher's channels."""
        projected: Tensor = self.layer(x)
        return projected


def _projections(part: Part) -> nn.ModuleList:
    return nn.ModuleList(Projection(pair) for pair in part.pairs) if part.loss.projects else nn.ModuleList()


def _as_student(tensors: tuple[Tensor, ...], side: Side) -> Answers:
    logits = log_probabilities(tensors[0]) if side.probabilities else tensors[0]
    return Answers(tensors[: side.outputs], logits)


def _as_teacher(tensors: tuple[Tensor, ...], side: Side) -> Answers:
    """The teacher has taken the logarithm of its probabilities already."""
    first = tensors[0].exp() if side.probabilities else tensors[0]
    return Answers((first, *tensors[1 : side.outputs]), tensors[0])
