"""From a decoded image to the model's input.

`fit_image` does what torchvision's Resize and CenterCrop do to a PIL image (bilinear, antialiased);
`normalize` is (x * scale - mean) / std. The orientation that a camera notes in EXIF is left alone, as
torchvision leaves it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgeopt.model import Preprocess

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["fit_boxes", "fit_image", "normalize"]


def normalize(raw: np.ndarray, preprocess: Preprocess) -> np.ndarray:
    """uint8 [n, H, W, C] -> float32 [n, C, H, W] or [n, H, W, C]: (x * scale - mean) / std."""
    channels = raw.shape[-1]
    std = np.broadcast_to(np.asarray(preprocess.std, np.float64), channels)
    mean = np.broadcast_to(np.asarray(preprocess.mean, np.float64), channels)
    factor, offset = (preprocess.scale / std).astype(np.float32), (-mean / std).astype(np.float32)
    if preprocess.layout == "NHWC":
        x = raw.astype(np.float32)
    else:
        x = raw.transpose(0, 3, 1, 2).astype(np.float32, order="C")
        factor, offset = factor[:, None, None], offset[:, None, None]
    x *= factor
    x += offset
    return x


def fit_image(image: Image, preprocess: Preprocess) -> np.ndarray:
    """A decoded image as uint8 [H, W, C]: colour, resize and centre crop as `preprocess` says.

    Equal to torchvision's Resize and CenterCrop on the same PIL image. Raises ValueError for a colour mode
    that has no agreed range (32-bit float).
    """
    import PIL.Image

    image = _to_mode(image, "L" if preprocess.color == "gray" else "RGB")
    height, width = preprocess.size
    scaled, (left, top) = _placement(image.size, preprocess)
    fitted = image.resize(scaled, PIL.Image.Resampling.BILINEAR)
    if preprocess.resize is not None:
        fitted = fitted.crop((left, top, left + width, top + height))
    return np.asarray(fitted, np.uint8).reshape(height, width, preprocess.channels)


def fit_boxes(boxes: np.ndarray, size: tuple[int, int], preprocess: Preprocess) -> np.ndarray:
    """Boxes [k, 4 or more] (x1, y1, x2, y2, ...) of an image of `size` (width, height), as `fit_image` moves what is in
    them: pixels of the model's input, cut off at its edges. Those that nothing is left of are left out.
    """
    (wide, tall), (left, top) = _placement(size, preprocess)
    corners = boxes[:, :4] * np.tile([wide / size[0], tall / size[1]], 2) - np.tile([left, top], 2)
    corners = corners.clip(0, np.tile(preprocess.size[::-1], 2))
    fitted = np.concatenate([corners, boxes[:, 4:]], axis=1)
    some: np.ndarray = fitted[(corners[:, 2:] > corners[:, :2]).all(axis=1)]
    return some


def _placement(size: tuple[int, int], preprocess: Preprocess) -> tuple[tuple[int, int], tuple[int, int]]:
    """Of an image of `size`: what it is resized to, and the upper left corner of what is cut out; (width, height)
    each."""
    height, width = preprocess.size
    if preprocess.resize is None:
        return (width, height), (0, 0)
    short = min(size)
    # int(), not round(): torchvision cuts the longer side down.
    wide, tall = (preprocess.resize if side == short else int(preprocess.resize * side / short) for side in size)
    return (wide, tall), (round((wide - width) / 2), round((tall - height) / 2))


def _to_mode(image: Image, mode: str) -> Image:
    """`image` in `mode`; 16-bit grey is scaled to 8 bits, where Pillow would clip it to white."""
    import PIL.Image

    if image.mode == "F":
        raise ValueError("32-bit float pixels have no agreed range")
    if image.mode.startswith("I"):
        pixels = np.asarray(image)
        deep = image.mode != "I" or pixels.max() > 255
        image = PIL.Image.fromarray((pixels >> 8 if deep else pixels).clip(0, 255).astype(np.uint8))
    if image.mode == "P" and "transparency" in image.info:
        # The same colours; straight to RGB, Pillow prints a warning.
        image = image.convert("RGBA")
    return image if image.mode == mode else image.convert(mode)
