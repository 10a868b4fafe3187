"""Distill: a student learns from a teacher."""

from __future__ import annotations

import time
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from edgeopt.data import Data
from edgeopt.distill.losses import Loss, SoftTargets
from edgeopt.errors import UsageError
from edgeopt.model import Model
from edgeopt.model.reference import ModelRef
from edgeopt.progress import Progress
from edgeopt.stage import Context, Stage, StageResult
from edgeopt.train.settings import Fit
from edgeopt.train.stage import check_labels, ends_in_softmax, trained_on

__all__ = ["Distill"]


class Distill(Stage):
    """Train a student to answer as a teacher does.

    With `teacher` given, the incoming model is the student; with `student` given, it is the teacher.
    """

    makes_network: ClassVar[bool] = True

    kind: Literal["distill"] = "distill"
    teacher: ModelRef | None = Field(None, description="the model to learn from; the incoming model is the student")
    student: ModelRef | None = Field(None, description="the model that learns; the incoming model is the teacher")
    loss: Loss = Field(SoftTargets(), description="what the student is to match")
    fit: Fit = Field(Fit(), description="how the student is trained")

    @model_validator(mode="after")
    def _one_reference(self) -> Distill:
        if (self.teacher is None) == (self.student is None):
            found = "neither is" if self.teacher is None else "both are"
            raise ValueError(
                f"give either `teacher` (the incoming model is the student) or `student` "
                f"(the incoming model is the teacher); {found} given"
            )
        return self

    def references(self) -> tuple[ModelRef, ...]:
        """The other model of the pair."""
        return tuple(filter(None, (self.teacher, self.student)))

    def apply(self, model: Model, context: Context) -> StageResult:
        """The trained student. Labels are used where there are any; without, the teacher's outputs are all.

        Raises UsageError when student, teacher and data do not match, StageFailed on divergence.
        """
        from edgeopt.model.to_torch import from_torch, to_torch

        began = time.perf_counter()
        data = context.need_data("distill")
        student, teacher = self._pair(model, context)
        check_pair(student, teacher, context.progress)
        if data.train.labels is not None:
            check_labels(student, data.train, "distill")
        module = to_torch(student)
        history, teacher_params = self._train(module, student, teacher, data, context)
        facts: dict[str, Any] = {
            "student_params": sum(tensor.numel() for tensor in module.parameters()),
            "teacher_params": teacher_params,
            "labels": data.train.labels is not None,
            "epochs": self.fit.epochs,
            "seconds": time.perf_counter() - began,
            "history": history,
        }
        return StageResult(trained_on(from_torch(module, student), data), facts)

    def _pair(self, model: Model, context: Context) -> tuple[Model, Model]:
        """Student and teacher."""
        if self.teacher is not None:
            return model, self.teacher.load(context.seed)
        assert self.student is not None
        return self.student.load(context.seed), model

    def _train(
        self, module: Any, student: Model, teacher: Model, data: Data, context: Context
    ) -> tuple[list[dict[str, Any]], int]:
        """Train `module` in place; the history and the teacher's parameter count."""
        from edgeopt.distill.teacher import Teacher
        from edgeopt.train.fit import fit
        from edgeopt.train.objectives import HardLabels

        guide = Teacher(teacher, data.preprocess, probabilities=ends_in_softmax(teacher))
        probabilities = ends_in_softmax(student)
        labels = HardLabels(self.fit.label_smoothing, probabilities=probabilities)
        objective = self.loss.objective(guide, labels, probabilities=probabilities)
        history = fit(
            module,
            data.train,
            self.fit,
            objective,
            seed=context.seed,
            progress=context.progress,
            scratch=context.scratch,
            label="distilling",
        )
        return history, sum(tensor.numel() for tensor in guide.parameters())


def check_pair(student: Model, teacher: Model, progress: Progress) -> None:
    """Raise UsageError unless both take equal inputs and give equal outputs; warn of odd class names."""
    for what, ours, theirs in (
        ("input", student.inputs, teacher.inputs),
        ("output", student.outputs, teacher.outputs),
    ):
        shapes = [[list(info.shape) for info in infos] for infos in (ours, theirs)]
        if len(ours) != len(theirs) or not all(map(_same_shape, *shapes)):
            raise UsageError(
                f"the student's {what} is {_describe(shapes[0])}, the teacher's is {_describe(shapes[1])}",
                where="distill",
                fix=f"take a pair with equal {what}s (batch aside)",
            )
    one, other = student.meta.labels, teacher.meta.labels
    if one and other and one != other:
        progress.warn(f"the teacher's classes ({other[0]}, ...) are named unlike the student's ({one[0]}, ...)")


def _same_shape(one: list[int | str], other: list[int | str]) -> bool:
    """Equal but for the batch and for dims that are left open."""
    if len(one) != len(other):
        return False
    pairs = list(zip(one, other, strict=True))[1:]
    return all(a == b for a, b in pairs if isinstance(a, int) and isinstance(b, int))


def _describe(shapes: list[list[int | str]]) -> str:
    return " and ".join("[" + ", ".join(str(dim) for dim in shape) + "]" for shape in shapes)
