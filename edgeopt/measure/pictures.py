"""Small pictures of test images, as `data:` addresses that a page can hold."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import numpy as np

from edgeopt.data import Split
from edgeopt.errors import UsageError
from edgeopt.report import Row

__all__ = ["take_pictures", "to_picture"]

MOST_PICTURES = 24
SIDE = 72
"""Longest side of a picture, pixels; smaller images stay as they are."""
LOSSLESS = 32
"""Images of so few pixels a side are stored as PNG: JPEG would blur what little there is."""
MOST_BYTES = 6_000
"""Of one picture."""


def take_pictures(rows: Sequence[Row], split: Split | None) -> dict[str, str]:
    """Position in `split` -> picture, for the first images whose answer changed, the artifacts taking turns.

    Empty where the samples are no images.
    """
    if split is None:
        return {}
    turns = max((len(row.changes) for row in rows), default=0)
    wanted = [row.changes[turn].image for turn in range(turns) for row in rows if turn < len(row.changes)]
    images = list(dict.fromkeys(wanted))[:MOST_PICTURES]
    if not images:
        return {}
    try:
        pixels = split.raw(np.array(images))
    except UsageError:  # a sample is several arrays
        return {}
    if pixels.dtype == np.uint8 and split.preprocess is not None:  # digits of 16 levels are not to look black
        pixels = (pixels * (255 * split.preprocess.scale)).clip(0, 255).round().astype(np.uint8)
    pictures = {str(image): to_picture(array) for image, array in zip(images, pixels, strict=True)}
    return {image: picture for image, picture in pictures.items() if picture}


def to_picture(array: np.ndarray) -> str:
    """uint8 [H, W, C] or floats [C, H, W], [H, W, C] or [H, W], of 1 or 3 channels, as a `data:` address; else "".

    Floats are stretched over the range that they take.
    """
    from PIL import Image

    pixels = _pixels(array)
    if pixels is None:
        return ""
    image = Image.fromarray(pixels)
    image.thumbnail((SIDE, SIDE))
    small = max(image.size) <= LOSSLESS
    written = io.BytesIO()
    if small:
        image.save(written, "PNG", optimize=True)
    else:
        image.save(written, "JPEG", quality=75)
    content = written.getvalue()
    kind = "png" if small else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}" if len(content) <= MOST_BYTES else ""


def _pixels(array: np.ndarray) -> np.ndarray | None:
    """uint8 [H, W] or [H, W, 3], or None when `array` is no image."""
    if array.ndim == 3 and array.shape[-1] not in (1, 3) and array.shape[0] in (1, 3):
        array = array.transpose(1, 2, 0)
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[-1] != 3) or not array.size:
        return None
    if array.dtype == np.uint8:
        return np.ascontiguousarray(array)
    low, high = float(array.min()), float(array.max())
    if not np.isfinite([low, high]).all():
        return None
    return np.ascontiguousarray(
        np.rint((array.astype(np.float64) - low) * (255 / max(high - low, 1e-12))).astype(np.uint8)
    )
