"""Whether a data set fits a model: its classes the output, its samples the input."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgeopt.data.data import CLASS, PADDING, Split
from edgeopt.errors import UsageError
from edgeopt.model import Model
from edgeopt.progress import Progress

__all__ = ["fit_box_classes", "fit_classes", "fit_input"]


def fit_classes(
    labels: np.ndarray | None, classes: tuple[str, ...], model: Model | None, where: str, progress: Progress
) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """Class numbers and names as the model counts them.

    Where the model's metadata names classes and the data's names are among them, the names decide the
    numbers: a folder need not sort its classes as the model does. Raises UsageError when the counts cannot be
    reconciled.
    """
    if labels is None:
        return None, ()
    width = _output_width(model)
    stated = model.meta.labels if model is not None else ()
    if classes and len(set(stated)) == len(stated) and set(classes) <= set(stated):
        numbers = np.array([stated.index(name) for name in classes], np.int64)
        return numbers[labels], stated
    count = len(classes) or int(labels.max()) + 1
    if width is not None and (count > width or (classes and count != width)):
        raise UsageError(
            f"has {count} classes, the model's output has {width}",
            where=where,
            fix="use the data the model was trained on, or build a network with as many outputs "
            f"(--model-setting num_classes={count}, `settings:` in a recipe)",
        )
    if classes and stated:
        progress.warn(f"class names ({classes[0]}, ...) are not the model's ({stated[0]}, ...); taken in order")
    return labels, classes or _numbered(stated, width or count)


def fit_box_classes(
    boxes: np.ndarray, classes: tuple[str, ...], model: Model | None, where: str, progress: Progress
) -> tuple[np.ndarray, tuple[str, ...]]:
    """`fit_classes` of the classes of `boxes` (as `Split.boxes`): the boxes with the model's numbers, and the names."""
    there = boxes[:, :, CLASS] != PADDING
    numbers, names = fit_classes(boxes[there][:, CLASS].astype(np.int64), classes, model, where, progress)
    renumbered = boxes.copy()
    renumbered[there, CLASS] = numbers
    return renumbered, names


def _numbered(stated: tuple[str, ...], count: int) -> tuple[str, ...]:
    return stated if len(stated) == count else tuple(str(number) for number in range(count))


def _output_width(model: Model | None) -> int | None:
    """Number of classes of a classifier [batch, classes], or of a detector; None when the shape does not say."""
    if model is None or not model.outputs:
        return None
    shape = model.outputs[0].shape
    if model.meta.anchors is not None:
        return model.meta.anchors.classes(shape)
    if model.meta.task != "classification":
        return None
    return shape[1] if len(shape) == 2 and isinstance(shape[1], int) else None


def fit_input(split: Split, model: Model, where: str) -> None:
    """Raise UsageError unless the samples have the shapes of the model's inputs (batch aside), one for each."""
    first = split.read(np.arange(1))
    if isinstance(first.rows, Mapping):
        fed = first.feeds([info.name for info in model.inputs])
        pairs = [(f"{info.name}: ", fed[info.name], info.shape) for info in model.inputs]
    else:
        # The first input alone: a further one is refused by name where it would have to be fed.
        pairs = [("", first.rows, model.inputs[0].shape if model.inputs else ())]
    for name, array, shape in pairs:
        wanted, have = shape[1:], array.shape[1:]
        if len(have) == len(wanted) and all(w == h for w, h in zip(wanted, have, strict=True) if isinstance(w, int)):
            continue
        raise UsageError(
            f"{name}samples are {_shape(have)}, the model's input is {_shape(wanted)}",
            where=where,
            fix="correct data.preprocess (size, color, layout)"
            if split.preprocess is not None
            else "reshape the arrays",
        )


def _shape(dims: tuple[int | str, ...]) -> str:
    return " x ".join(str(dim) for dim in dims) or "a single number"
