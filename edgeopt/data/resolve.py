"""Whose word counts on preprocessing.

What the recipe declares, else what the model's metadata says, else the source's own (digits), else a guess:
from the shape of the model's input, or without a model from the images. A guess is always warned about.
"""

from __future__ import annotations

import math

import numpy as np

from edgeopt.data.origin import Origin
from edgeopt.errors import UsageError
from edgeopt.model import Model, Preprocess
from edgeopt.progress import Progress

__all__ = ["assume_preprocess", "check_preprocess", "differing_fields", "resolve_preprocess"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
IMAGENET_FROM = 64
"""Inputs at least this high and wide are taken for ImageNet-style networks when nothing else is known."""
IMAGENET_CROP = 0.875
"""Share of the resized image's shorter side that ImageNet networks are shown (224 of 256)."""


def check_preprocess(preprocess: Preprocess, where: str) -> None:
    """Raise UsageError when the fields contradict one another."""
    if min(preprocess.size) < 1:
        raise UsageError(f"size {list(preprocess.size)} is not a height and a width", where=where)
    for name, values in (("mean", preprocess.mean), ("std", preprocess.std)):
        if len(values) not in (1, preprocess.channels):
            raise UsageError(
                f"{name} has {len(values)} values, the images have {preprocess.channels} channel(s)",
                where=where,
                fix="give one value, or one for each channel",
            )
    if not all(math.isfinite(v) for v in (preprocess.scale, *preprocess.mean, *preprocess.std)):
        raise UsageError("scale, mean and std must be finite numbers", where=where)
    if 0 in preprocess.std or preprocess.scale == 0:
        raise UsageError("scale and std must not be 0", where=where)
    if preprocess.resize is not None and preprocess.resize < max(preprocess.size):
        raise UsageError(
            f"resize {preprocess.resize} is smaller than the crop {list(preprocess.size)}",
            where=where,
            fix="make resize at least as large as size",
        )


def differing_fields(one: Preprocess, other: Preprocess) -> list[str]:
    """Names of the fields in which two preprocessings differ (a mean of (0,) equals (0, 0, 0))."""
    return [name for name in Preprocess.model_fields if not _same(getattr(one, name), getattr(other, name))]


def _same(one: object, other: object) -> bool:
    numeric = (int, float, tuple)
    if not isinstance(one, numeric) or not isinstance(other, numeric):
        return one == other
    a, b = np.atleast_1d(np.asarray(one, np.float64)), np.atleast_1d(np.asarray(other, np.float64))
    return (len(a) == len(b) or 1 in (len(a), len(b))) and bool(np.allclose(a, b, rtol=1e-6, atol=1e-9))


def resolve_preprocess(
    declared: Preprocess | None, origin: Origin, model: Model | None, progress: Progress
) -> Preprocess:
    """The preprocessing that applies. Warns of guesses and contradictions.

    Raises UsageError when nobody says what the input is, or what is said contradicts itself.
    """
    stated = model.meta.preprocess if model is not None else None
    chosen = declared or stated
    if chosen is None:
        chosen = _own(origin, model) or _guess(origin, model, progress)
    check_preprocess(chosen, "data.preprocess" if declared is not None else "the model's preprocessing")
    if declared is not None and stated is not None and (fields := differing_fields(declared, stated)):
        progress.warn(f"data.preprocess differs from the model's own in {', '.join(fields)}; data.preprocess is used")
    if origin.preprocess is not None and not _same(origin.preprocess.scale, chosen.scale):
        progress.warn(
            f"the pixels of {origin.name} want scale {origin.preprocess.scale:.6g}, "
            f"and the preprocessing in use has {chosen.scale:.6g}"
        )
    return chosen


def _own(origin: Origin, model: Model | None) -> Preprocess | None:
    """The source's own preprocessing, in the model's layout."""
    own = origin.preprocess
    return own if own is None or model is None else own.model_copy(update={"layout": _layout(model) or own.layout})


def _guess(origin: Origin, model: Model | None, progress: Progress) -> Preprocess:
    guess = origin.guess_preprocess() if model is None else assume_preprocess(model)
    if guess is None:
        raise UsageError(
            "nothing says what size the images shall have",
            fix="give data.preprocess (size, scale, mean, std)",
        )
    progress.warn(f"neither {origin.name} nor a model says how its images are preprocessed; assumed {_describe(guess)}")
    return guess


def assume_preprocess(model: Model) -> Preprocess:
    """A guess from the shape of the model's first input: its size, colour and layout, and scale 1/255.

    A colour input of 64 x 64 or more is normalized and cropped as ImageNet networks are; a smaller or gray
    one is only scaled to 0..1. Raises UsageError when the input does not look like an image.
    """
    layout, shape = _layout(model), model.inputs[0].shape if model.inputs else ()
    if layout is None:
        raise UsageError(
            f"the model's input {list(shape)} does not look like images",
            fix="give data.preprocess, or an .npz",
        )
    sides, channels = (shape[2:], shape[1]) if layout == "NCHW" else (shape[1:3], shape[3])
    height, width = (side if isinstance(side, int) else 0 for side in sides)
    if not (height and width):
        raise UsageError(
            f"the model's input {list(shape)} leaves the image size open",
            fix="give data.preprocess with a size",
        )
    plain = Preprocess.model_validate(
        {"size": (height, width), "color": "gray" if channels == 1 else "rgb", "layout": layout}
    )
    if channels == 1 or min(height, width) < IMAGENET_FROM:
        return plain
    resize = round(max(height, width) / IMAGENET_CROP)
    return plain.model_copy(update={"resize": resize, "mean": IMAGENET_MEAN, "std": IMAGENET_STD})


def _layout(model: Model) -> str | None:
    """Where the channels are in the model's first input, or None when it does not look like an image."""
    shape = model.inputs[0].shape if model.inputs else ()
    if len(shape) != 4:
        return None
    return "NCHW" if shape[1] in (1, 3) else "NHWC" if shape[3] in (1, 3) else None


def _describe(preprocess: Preprocess) -> str:
    said = preprocess.model_dump(exclude={"scale"}, exclude_defaults=True)
    return ", ".join([*(f"{k} {list(v) if isinstance(v, tuple) else v}" for k, v in said.items()), "scale 1/255"])
