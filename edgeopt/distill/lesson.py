"""Everything that a distillation needs, made ready: the student as a module, its objective, what is kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from edgeopt.data import Data
from edgeopt.distill.answers import Pair
from edgeopt.distill.cache import Kept, answer_bytes, room_bytes
from edgeopt.distill.layers import find_pairs, name_pairs, show
from edgeopt.distill.losses import Comparison
from edgeopt.distill.objective import Imitation, Part, Side
from edgeopt.distill.teacher import Teacher, Teachers
from edgeopt.errors import UsageError
from edgeopt.model import Model
from edgeopt.model.to_torch import to_torch, trained_names
from edgeopt.stage import Context
from edgeopt.train.settings import Fit
from edgeopt.train.stage import ends_in_softmax, label_objective
from edgeopt.units import format_bytes

if TYPE_CHECKING:
    from edgeopt.distill.stage import Distill

__all__ = ["Lesson", "prepare_lesson"]


@dataclass(frozen=True, eq=False)
class Lesson:
    """What `fit` is given, and what there is to say of it."""

    module: nn.Module
    objective: Imitation
    views: int | None
    """Number of different epochs; None: every epoch is drawn anew."""
    teacher_params: int

    def facts(self) -> dict[str, Any]:
        """For the report: the teachers' size, which layers were compared, what was kept."""
        teacher = self.objective.teacher
        pairs = [(part.loss.kind, pair) for part in self.objective.parts for pair in part.pairs]
        kept = teacher if isinstance(teacher, Kept) else None
        return {
            "teacher_params": self.teacher_params,
            "labels": self.objective.labels is not None,
            **({"layers": [_described(kind, pair) for kind, pair in pairs]} if pairs else {}),
            **({"teacher_views": len(kept.known), "teacher_cache_bytes": kept.size_bytes} if kept is not None else {}),
        }


def prepare_lesson(stage: Distill, student: Model, teachers: Sequence[Model], data: Data, context: Context) -> Lesson:
    """Student, teachers and losses put together. Raises UsageError for layers or a cache that cannot be."""
    parts = [Part(part, choose_pairs(part, student, teachers[0])) for part in stage.loss.parts]
    pairs = [pair for part in parts for pair in part.pairs]
    shown, places = show(student, list(dict.fromkeys(pair.student for pair in pairs)))
    guide, teacher_places = _guide(stage, teachers, data, [pair.teacher for pair in pairs])
    views = stage.views if stage.fit.augment.active else None
    if not pairs:
        guide = _keeping(guide, stage.fit, views, data, context)
    labelled = data.train.truth is not None and stage.labels_weight > 0
    objective = Imitation(
        guide,
        parts,
        label_objective(student, data.train, stage.fit, "distill") if labelled else None,
        stage.labels_weight,
        student_side=Side(len(student.outputs), places, ends_in_softmax(student)),
        teacher_side=Side(len(student.outputs), teacher_places, ends_in_softmax(teachers[0])),
        seed=context.seed,
    )
    params = sum(teacher.weights()[name].size for teacher in teachers for name in trained_names(teacher))
    return Lesson(to_torch(shown), objective, views, params)


def choose_pairs(loss: Comparison, student: Model, teacher: Model) -> tuple[Pair, ...]:
    """The inner tensors that `loss` compares; none for a loss on outputs."""
    if not loss.reads_layers:
        return ()
    named = loss.named_layers()
    pairs = name_pairs(student, teacher, named) if named else loss.choose(find_pairs(student, teacher))
    for pair in pairs:
        loss.check(pair)
    return pairs


def _guide(
    stage: Distill, teachers: Sequence[Model], data: Data, names: Sequence[str]
) -> tuple[nn.Module, dict[str, int]]:
    """The teachers as one module, and where it hands out its inner tensors."""
    if len(teachers) > 1:
        guides = [Teacher(teacher, data.preprocess, stage.fit.precision) for teacher in teachers]
        return Teachers(guides), {}
    shown, places = show(teachers[0], list(dict.fromkeys(names)))
    return Teacher(shown, data.preprocess, stage.fit.precision), places


def _keeping(guide: nn.Module, fit: Fit, views: int | None, data: Data, context: Context) -> nn.Module:
    """The teacher with a memory, where its answers come again and there is room for them."""
    if fit.augment.active and views is None:
        return guide
    size, room = (views or 1) * answer_bytes(guide, data.train), room_bytes()
    if size > room and views is not None:
        raise UsageError(
            f"the teacher's answers to {views} views of {len(data.train):,} samples take {format_bytes(size)}, and a "
            f"quarter of the memory is {format_bytes(room)}",
            where="distill: views",
            fix=f"take {views * room // size} views, or leave `views` out",
        )
    if size > room:
        return guide
    kept = Kept(guide, len(data.train), views or 1)
    if views is None:
        cuda = fit.accelerator == "cuda" or (fit.accelerator == "auto" and torch.cuda.is_available())
        kept.fill(data.train, torch.device("cuda" if cuda else "cpu"), context.progress)
    return kept


def _described(kind: str, pair: Pair) -> dict[str, Any]:
    return {
        "loss": kind,
        "student": pair.student,
        "student_shape": list(pair.student_shape[1:]),
        "teacher": pair.teacher,
        "teacher_shape": list(pair.teacher_shape[1:]),
    }
