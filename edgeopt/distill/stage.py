"""Distill: a student learns from a teacher, or from several."""

from __future__ import annotations

import time
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from edgeopt.distill.losses import Loss, SoftTargets
from edgeopt.errors import UsageError
from edgeopt.model import Model
from edgeopt.model.reference import ModelRef, Shrink, Student
from edgeopt.progress import Progress
from edgeopt.stage import Context, Stage, StageResult
from edgeopt.train.settings import Fit
from edgeopt.train.stage import trained_on

__all__ = ["Distill", "check_pair"]


def _how_many(value: object) -> str:
    return "several" if isinstance(value, list | tuple) else "one"


OneOrSeveral = Annotated[
    Annotated[ModelRef, Tag("one")] | Annotated[tuple[ModelRef, ...], Tag("several")], Discriminator(_how_many)
]


class Distill(Stage):
    """Train a student to answer as a teacher does.

    With `teacher` given, the incoming model is the student; with `student` given, it is the teacher.
    """

    makes_network: ClassVar[bool] = True

    kind: Literal["distill"] = "distill"
    teacher: OneOrSeveral | None = Field(
        None,
        description="the model to learn from, or a list of models whose logits are averaged; the incoming model is the "
        "student",
    )
    student: Student | None = Field(
        None,
        description="the model that learns, or `{kind: shrink}`: one made from the teacher; the incoming model is the "
        "teacher",
    )
    loss: Loss = Field(SoftTargets(), description="what the student is to match")
    labels: float | None = Field(
        None,
        ge=0,
        description="weight of the labels' cross-entropy, where the data has labels; none: 1, what the weight of "
        "soft_targets leaves of 1, or 0 beside outputs",
    )
    views: int | None = Field(
        None,
        ge=1,
        description="with augmentation: repeat order and augmentation of the first so many epochs, and ask the teacher "
        "in those alone; none: fresh draws, and a teacher that runs for every batch",
    )
    fit: Fit = Field(Fit(), description="how the student is trained")

    @model_validator(mode="after")
    def _one_reference(self) -> Distill:
        if bool(self.teachers) == (self.student is not None):
            found = "neither is" if self.student is None else "both are"
            raise ValueError(
                f"give either `teacher` (the incoming model is the student) or `student` "
                f"(the incoming model is the teacher); {found} given"
            )
        inner = [part.kind for part in self.loss.parts if part.reads_layers]
        if inner and self.views is not None:
            raise ValueError(f"`views` keeps a teacher's outputs, and {inner[0]} reads its inner tensors: leave it out")
        if inner and len(self.teachers) > 1:
            raise ValueError(f"{inner[0]} reads a teacher's inner tensors: give one teacher, not {len(self.teachers)}")
        return self

    @property
    def teachers(self) -> tuple[ModelRef, ...]:
        """The teachers that are named."""
        if self.teacher is None:
            return ()
        return self.teacher if isinstance(self.teacher, tuple) else (self.teacher,)

    @property
    def labels_weight(self) -> float:
        """What the labels count for where there are any."""
        return self.loss.beside_labels if self.labels is None else self.labels

    def references(self) -> tuple[ModelRef | Shrink, ...]:
        """The other models that take part."""
        return self.teachers if self.student is None else (*self.teachers, self.student)

    def needs_artifact(self) -> bool:
        """Where the student is to fit what the run ships."""
        return isinstance(self.student, ModelRef) and self.student.fit is not None

    def apply(self, model: Model, context: Context) -> StageResult:
        """The trained student. Labels are used where there are any; without, the teacher's outputs are all.

        Raises UsageError when student, teachers and data do not match, StageFailed on divergence.
        """
        from edgeopt.distill.lesson import prepare_lesson
        from edgeopt.model.to_torch import from_torch
        from edgeopt.train.fit import fit

        began = time.perf_counter()
        data = context.need_data("distill")
        student, teachers = self._pair(model, context)
        for teacher in teachers:
            check_pair(student, teacher, context.progress)
        self._check_classes(student)
        lesson = prepare_lesson(self, student, teachers, data, context)
        history = fit(
            lesson.module,
            data.train,
            self.fit,
            lesson.objective,
            seed=context.seed,
            progress=context.progress,
            scratch=context.scratch,
            label="distilling",
            views=lesson.views,
        )
        facts: dict[str, Any] = {
            "student_params": sum(tensor.numel() for tensor in lesson.module.parameters()),
            **lesson.facts(),
            "epochs": len(history),
            "seconds": time.perf_counter() - began,
            "history": history,
        }
        return StageResult(trained_on(from_torch(lesson.module, student), data), facts)

    def _pair(self, model: Model, context: Context) -> tuple[Model, tuple[Model, ...]]:
        """Student and teachers."""
        if self.student is not None:
            return self.student.load(context.seed), (model,)
        return model, tuple(reference.load(context.seed) for reference in self.teachers)

    def _check_classes(self, student: Model) -> None:
        """Raise UsageError unless the student classifies, where a loss wants that."""
        wanting = [part.kind for part in self.loss.parts if part.needs_classes]
        if wanting and len(student.outputs[0].shape) != 2:
            raise UsageError(
                f"{wanting[0]} compares classes, and the first output is {_describe([list(student.outputs[0].shape)])}",
                where="distill",
                fix="take `loss: {kind: outputs}`, which compares outputs of any shape",
            )


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
