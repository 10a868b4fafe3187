"""Train: the model learns the labels of the data."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from edgeopt.data import Data, Split
from edgeopt.data.data import CLASS
from edgeopt.errors import UsageError
from edgeopt.model import Model
from edgeopt.stage import Context, Stage, StageResult
from edgeopt.train.settings import Fit

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Train", "check_labels", "ends_in_softmax", "label_objective", "trained_on"]


class Train(Stage):
    """Train the network on the labels of the training images."""

    makes_network: ClassVar[bool] = True

    kind: Literal["train"] = "train"
    fit: Fit = Field(Fit(), description="how it is trained")

    def apply(self, model: Model, context: Context) -> StageResult:
        """The trained model. Raises UsageError if data and model do not match, StageFailed on divergence."""
        from edgeopt.model.to_torch import from_torch, to_torch
        from edgeopt.train.fit import fit
        from edgeopt.train.validation import best_epoch

        began = time.perf_counter()
        data = context.need_data("train")
        objective = label_objective(model, data.train, self.fit, "train")
        module = to_torch(model)
        history = fit(
            module,
            data.train,
            self.fit,
            objective,
            seed=context.seed,
            progress=context.progress,
            scratch=context.scratch,
        )
        facts: dict[str, Any] = {
            "params": sum(tensor.numel() for tensor in module.parameters()),
            "epochs": len(history),
            **({"kept_epoch": best_epoch(history)} if self.fit.keep == "best" else {}),
            "seconds": time.perf_counter() - began,
            "history": history,
        }
        return StageResult(trained_on(from_torch(module, model), data), facts)


def label_objective(model: Model, split: Split, settings: Fit, stage: str) -> nn.Module:
    """What the labels teach: classes, or boxes. Raises UsageError where they do not go with the model's outputs."""
    check_labels(model, split, stage)
    if split.boxes is None:
        from edgeopt.train.objectives import HardLabels

        return HardLabels(settings.label_smoothing, probabilities=ends_in_softmax(model))
    from edgeopt.train.boxes import MultiBox

    assert model.meta.anchors is not None
    return MultiBox(model.meta.anchors)


def check_labels(model: Model, split: Split, stage: str) -> None:
    """Raise UsageError unless the split has labels and the model's first output a place for each of their classes."""
    if split.boxes is not None:
        _check_boxes(model, int(split.boxes[..., CLASS].max()) + 1, stage)
        return
    if split.labels is None:
        raise UsageError(
            f"{stage} needs labelled images",
            fix="put the images in one folder per class, or distill from a teacher, which needs no labels",
        )
    shape = model.outputs[0].shape
    classes = int(split.labels.max()) + 1
    if len(shape) != 2 or (isinstance(shape[1], int) and shape[1] < classes):
        raise UsageError(
            f"{stage} needs outputs [batch, {classes} classes], the model's are {list(shape)}",
            fix="use a classification model with as many outputs as the data has classes",
        )


def _check_boxes(model: Model, classes: int, stage: str) -> None:
    shape, anchors = model.outputs[0].shape, model.meta.anchors
    if anchors is None:
        raise UsageError(
            f"{stage}: the images are labelled with boxes, and the model does not say how its outputs become boxes",
            fix="use a detector such as edgeopt:ssd, or a module with `anchors` (docs/detection.md)",
        )
    known = anchors.classes(shape)
    if known is None or known < classes:
        raise UsageError(
            f"{stage} needs outputs [batch, {anchors.count} anchors, 1 + {classes} classes + 4], "
            f"the model's are {list(shape)}",
            fix=f"build a detector of {classes} classes",
        )


def ends_in_softmax(model: Model) -> bool:
    """Whether the first output is probabilities, because the last node is a Softmax."""
    node = model.graph.graph.outputs[0].producer()
    return node is not None and node.op_type == "Softmax"


def trained_on(model: Model, data: Data) -> Model:
    """The model, with the class names and the preprocessing that it has just been trained with."""
    changes: dict[str, Any] = {}
    if data.preprocess is not None:
        changes["preprocess"] = data.preprocess
    if data.labels:
        changes["labels"] = data.labels
    return model.with_meta(**changes)
