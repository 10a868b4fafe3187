"""Distillation losses a recipe can name. Another loss is one more Spec here with a `compare` method.

The formulas are in `edgeopt.train.losses`. What is minimised is

    labels * cross-entropy with the labels + the sum of weight * loss

where `labels` is the stage's, said once however many losses there are, and each weight is the loss's own. Default
weights are those that the papers (or their authors' code) give for small images.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import AliasChoices, Field

from edgeopt.distill.answers import Answers, Pair
from edgeopt.errors import UsageError
from edgeopt.spec import Spec

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "AttentionTransfer",
    "Boxes",
    "Comparison",
    "Dist",
    "Dkd",
    "Hint",
    "Loss",
    "Outputs",
    "Rkd",
    "SimilarityPreserving",
    "SoftTargets",
    "Sum",
]

LAYERS = "student's tensor: teacher's tensor, by name; none: the last activation at each resolution both have, "


class Comparison(Spec):
    """One loss between what the student and what the teacher gives for a batch."""

    reads_layers: ClassVar[bool] = False
    """Compares inner tensors, which a cache of the teacher's outputs does not hold."""
    projects: ClassVar[bool] = False
    """The student's inner tensors go through a learned projection to the teacher's channels first."""
    needs_classes: ClassVar[bool] = True
    """The first output has to be [batch, classes]."""
    kind: str
    weight: float

    @property
    def parts(self) -> tuple[Comparison, ...]:
        """The losses that are added up."""
        return (self,)

    @property
    def beside_labels(self) -> float:
        """What the labels count for where the recipe does not say."""
        return 1.0

    def named_layers(self) -> dict[str, str]:
        """The tensors to compare that the user named, student's to teacher's."""
        return {}

    def choose(self, pairs: Sequence[Pair]) -> tuple[Pair, ...]:
        """Those it compares of the pairs that were found (never empty), from high to low resolution."""
        return tuple(pairs)

    def check(self, pair: Pair) -> None:
        """Raise UsageError for a pair that it cannot compare."""

    def compare(self, student: Answers, teacher: Answers, labels: Tensor | None) -> Tensor:
        """The loss of a batch, a scalar without `weight`. `labels` are int64 [n], shares [n, classes] or None."""
        raise NotImplementedError


class SoftTargets(Comparison):
    """The teacher's softened probabilities beside the labels (Hinton et al., arXiv 1503.02531)."""

    kind: Literal["soft_targets"] = "soft_targets"
    temperature: float = Field(4.0, gt=0, description="divides the logits of both; more is softer")
    weight: float = Field(
        0.9,
        ge=0,
        le=1,
        description="of the soft targets; the labels have the rest of 1 unless `labels` says otherwise",
        validation_alias=AliasChoices("weight", "alpha"),
    )

    @property
    def beside_labels(self) -> float:
        return 1 - self.weight

    def compare(self, student: Answers, teacher: Answers, labels: Tensor | None) -> Tensor:
        from edgeopt.train.losses import soft_targets

        return soft_targets(student.logits, teacher.logits, self.temperature)


class Dkd(Comparison):
    """Decoupled knowledge distillation, DKD: the label's probability and that of the others apart (Zhao et al.,
    arXiv 2203.08679). Without labels the teacher's first class is the label."""

    kind: Literal["dkd"] = "dkd"
    temperature: float = Field(4.0, gt=0, description="divides the logits of both; more is softer")
    alpha: float = Field(1.0, ge=0, description="of the label against all others together")
    beta: float = Field(8.0, ge=0, description="of the others among themselves; the paper takes 0.5 to 8")
    weight: float = Field(1.0, ge=0, description="of this loss in the sum")

    def compare(self, student: Answers, teacher: Answers, labels: Tensor | None) -> Tensor:
        from edgeopt.train.losses import decoupled

        shares = teacher.logits if labels is None else labels
        targets = shares if shares.ndim == 1 else shares.argmax(1)
        return decoupled(student.logits, teacher.logits, targets, self.temperature, self.alpha, self.beta)


class Dist(Comparison):
    """DIST: correlation with the teacher's probabilities, over classes and over the batch; for teachers that are much
    stronger than the student (Huang et al., arXiv 2205.10536)."""

    kind: Literal["dist"] = "dist"
    temperature: float = Field(1.0, gt=0, description="divides the logits of both; 1 on ImageNet, 4 on CIFAR-100")
    beta: float = Field(2.0, ge=0, description="of the correlation over the classes of each image")
    gamma: float = Field(2.0, ge=0, description="of the correlation over the images of each class")
    weight: float = Field(1.0, ge=0, description="of this loss in the sum")

    def compare(self, student: Answers, teacher: Answers, labels: Tensor | None) -> Tensor:
        from edgeopt.train.losses import dist

        return dist(student.logits, teacher.logits, self.temperature, self.beta, self.gamma)


class Hint(Comparison):
    """An inner layer predicts the teacher's through a learned 1x1 convolution that is thrown away afterwards: the hint
    of FitNets (Romero et al., arXiv 1412.6550), trained together with the rest."""

    reads_layers: ClassVar[bool] = True
    projects: ClassVar[bool] = True
    needs_classes: ClassVar[bool] = False

    kind: Literal["hint"] = "hint"
    layers: dict[str, str] = Field({}, description=LAYERS + "the middle one of them")
    weight: float = Field(10.0, ge=0, description="of this loss in the sum")

    def named_layers(self) -> dict[str, str]:
        return self.layers

    def choose(self, pairs: Sequence[Pair]) -> tuple[Pair, ...]:
        return (pairs[len(pairs) // 2],)

    def check(self, pair: Pair) -> None:
        ours, theirs = pair.student_shape, pair.teacher_shape
        if len(ours) < 2 or len(ours) != len(theirs) or ours[2:] != theirs[2:]:
            raise _misfit(self.kind, pair, "equal but for the channels")

    def compare(self, student: Answers, teacher: Answers, labels: Tensor | None) -> Tensor:
        from edgeopt.train.losses import hint

        return _mean([hint(*both) for both in zip(student.features, teacher.features, strict=True)])


class AttentionTransfer(Comparison):
    """Where the student's layers are active, the teacher's are: maps of the squared activations (Zagoruyko and
    Komodakis, arXiv 1612.03928)."""

    reads_layers: ClassVar[bool] = True
    needs_classes: ClassVar[bool] = False

    kind: Literal["attention_transfer"] = "attention_transfer"
    layers: dict[str, str] = Field({}, description=LAYERS + "all of them")
    weight: float = Field(1000.0, ge=0, description="of this loss in the sum")

    def named_layers(self) -> dict[str, str]:
        return self.layers

    def check(self, pair: Pair) -> None:
        if not pair.resolution:
            raise _misfit(self.kind, pair, "images [batch, channels, h, w] of one height and width")

    def compare(self, student: Answers, teacher: Answers, labels: Tensor | None) -> Tensor:
        from edgeopt.train.losses import attention_transfer

        return _sum([attention_transfer(*both) for both in zip(student.features, teacher.features, strict=True)])


class Rkd(Comparison):
    """RKD: distances and angles between the images of a batch are as the teacher has them (Park et al.,
    arXiv 1904.05068). Images are compared by their channels' means over the picture."""

    reads_layers: ClassVar[bool] = True
    needs_classes: ClassVar[bool] = False

    kind: Literal["rkd"] = "rkd"
    layers: dict[str, str] = Field({}, description=LAYERS + "the last of them")
    distance: float = Field(25.0, ge=0, description="of the distances of pairs")
    angle: float = Field(50.0, ge=0, description="of the angles of triples")
    weight: float = Field(1.0, ge=0, description="of this loss in the sum")

    def named_layers(self) -> dict[str, str]:
        return self.layers

    def choose(self, pairs: Sequence[Pair]) -> tuple[Pair, ...]:
        return (pairs[-1],)

    def compare(self, student: Answers, teacher: Answers, labels: Tensor | None) -> Tensor:
        from edgeopt.train.losses import relational_angle, relational_distance

        sides = zip(student.features, teacher.features, strict=True)
        pooled = [tuple(side.flatten(2).mean(2) if side.ndim > 2 else side for side in both) for both in sides]
        return _mean(
            [self.distance * relational_distance(*both) + self.angle * relational_angle(*both) for both in pooled]
        )


class SimilarityPreserving(Comparison):
    """Images that are similar to the teacher are similar to the student: similarity-preserving distillation (Tung and
    Mori, arXiv 1907.09682)."""

    reads_layers: ClassVar[bool] = True
    needs_classes: ClassVar[bool] = False

    kind: Literal["similarity_preserving"] = "similarity_preserving"
    layers: dict[str, str] = Field({}, description=LAYERS + "the last of them")
    weight: float = Field(3000.0, ge=0, description="of this loss in the sum")

    def named_layers(self) -> dict[str, str]:
        return self.layers

    def choose(self, pairs: Sequence[Pair]) -> tuple[Pair, ...]:
        return (pairs[-1],)

    def compare(self, student: Answers, teacher: Answers, labels: Tensor | None) -> Tensor:
        from edgeopt.train.losses import similarity_preserving

        return _mean([similarity_preserving(*both) for both in zip(student.features, teacher.features, strict=True)])


class Outputs(Comparison):
    """Every raw output as the teacher gives it, for any networks of equal outputs, detection heads included; labels
    are not looked at (Ba and Caruana, arXiv 1312.6184). Each error is a share of the output's variance."""

    needs_classes: ClassVar[bool] = False

    kind: Literal["outputs"] = "outputs"
    error: Literal["mse", "smooth_l1"] = Field(
        "mse", description="squared, or growing linearly beyond a standard deviation (for outputs with outliers)"
    )
    weight: float = Field(1.0, ge=0, description="of this loss in the sum")

    @property
    def beside_labels(self) -> float:
        return 0.0

    def compare(self, student: Answers, teacher: Answers, labels: Tensor | None) -> Tensor:
        from edgeopt.train.losses import match_outputs

        return match_outputs(student.outputs, teacher.outputs, robust=self.error == "smooth_l1")


class Boxes(Comparison):
    """A detector's classes and boxes as the teacher has them, where either sees something: soft targets of each anchor,
    and its box where the teacher is confident (after Chen et al., NeurIPS 2017; `edgeopt.train.boxes.imitation`)."""

    needs_classes: ClassVar[bool] = False

    kind: Literal["boxes"] = "boxes"
    temperature: float = Field(2.0, gt=0, description="divides the class logits of both; more is softer")
    weight: float = Field(1.0, ge=0, description="of this loss in the sum")

    def compare(self, student: Answers, teacher: Answers, labels: Tensor | None) -> Tensor:
        from edgeopt.train.boxes import imitation

        return imitation(student.outputs[0], teacher.outputs[0], self.temperature)


Part = Annotated[
    SoftTargets | Dkd | Dist | Hint | AttentionTransfer | Rkd | SimilarityPreserving | Outputs | Boxes,
    Field(discriminator="kind"),
]


class Sum(Comparison):
    """Several losses at once, each with its weight."""

    kind: Literal["sum"] = "sum"
    of: tuple[Part, ...] = Field(min_length=1, description="the losses that are added up")
    weight: float = Field(1.0, ge=0, description="of the whole sum")

    @property
    def parts(self) -> tuple[Comparison, ...]:
        return tuple(part.model_copy(update={"weight": self.weight * part.weight}) for part in self.of)

    @property
    def beside_labels(self) -> float:
        return min(part.beside_labels for part in self.of)


Loss = Annotated[
    SoftTargets | Dkd | Dist | Hint | AttentionTransfer | Rkd | SimilarityPreserving | Outputs | Boxes | Sum,
    Field(discriminator="kind"),
]


def _sum(values: Sequence[Tensor]) -> Tensor:
    return sum(values[1:], values[0])


def _mean(values: Sequence[Tensor]) -> Tensor:
    return _sum(values) / len(values)


def _misfit(kind: str, pair: Pair, wanted: str) -> UsageError:
    return UsageError(
        f"{pair.student} is {list(pair.student_shape)}, {pair.teacher} is {list(pair.teacher_shape)}; wanted: {wanted}",
        where=f"distill: loss {kind}",
        fix="name other tensors in `layers`",
    )
