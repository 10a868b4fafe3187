"""One call in `model_run`, with all that it needs around it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from edgeopt.mcu.cores import Packing
from edgeopt.mcu.program import Image, Op, Window

__all__ = ["Array", "ByCore", "Call", "literal", "numbers", "size_fields", "window_fields"]


@dataclass(frozen=True)
class Array:
    """A constant array in flash; `packed` has a text for each packing where they differ."""

    name: str
    kind: str
    text: str = ""
    packed: Mapping[Packing, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ByCore:
    """A number that depends on the packing."""

    values: Mapping[Packing, int]


@dataclass(frozen=True, eq=False)
class Call:
    """The kernel files (stems) that `op` needs, its statement and its constants.

    `text` is the statement with `{0}`, `{1}` for the inputs, `{out}` for the output and `{scratch}` for scratch memory;
    `struct` is the type of the constant that describes the layer, which is named as the output is; `fields` its
    members.
    """

    op: Op
    kernels: tuple[str, ...]
    text: str
    struct: str = ""
    fields: Mapping[str, object] = field(default_factory=dict)
    arrays: tuple[Array, ...] = ()
    scratch: Mapping[Packing, int] = field(default_factory=dict)
    """Bytes of the arena that it needs while it runs."""
    over: Mapping[int, int] = field(default_factory=dict)
    """Inputs that it may write its output over, and their lead (see `plan`)."""
    instance: tuple[str, int, int] | None = None
    """conv: name and distances that its DSP kernel is compiled for."""
    runs: int = 0
    """conv: dot products that an output is made of."""
    parts: tuple[Call, ...] = ()
    """Calls that this one is made of (see `lower_stripes`): theirs are the constants, `text` has all statements."""
    inside: Mapping[Packing, Mapping[str, int]] = field(default_factory=dict)
    """Names of places in the scratch memory and their offsets; `text` has them as `arena.bytes + AT_NAME`."""


def literal(value: object) -> str:
    """A C constant. Nine digits give back every bit of a float32."""
    if isinstance(value, np.floating | float):
        text = f"{float(np.float32(value)):.9g}"
        return f"{text}f" if "." in text or "e" in text else f"{text}.0f"
    if isinstance(value, np.ndarray | list | tuple):
        return "{" + ", ".join(literal(item) for item in value) + "}"
    return str(value)


def numbers(array: np.ndarray) -> str:
    """The elements of an array, comma-separated, in lines of up to 120 characters."""
    if array.dtype.kind == "f":
        texts = [literal(value) for value in array.ravel()]
    else:
        texts = [str(value) for value in array.ravel().tolist()]
    lines, line = [], ""
    for text in texts:
        if len(line) + len(text) > 114:
            lines.append(line)
            line = ""
        line += text + ","
    return "\n    ".join([*lines, line])


def size_fields(image: Image, made: Image) -> dict[str, object]:
    """Members of a layer's struct that say what it reads and what it makes."""
    return {
        "in_height": image.height,
        "in_width": image.width,
        "in_channels": image.channels,
        "out_height": made.height,
        "out_width": made.width,
        "out_channels": made.channels,
    }


def window_fields(window: Window) -> dict[str, object]:
    """Members of a layer's struct that say how its window lies."""
    return {
        "kernel_height": window.kernel[0],
        "kernel_width": window.kernel[1],
        "dilation_y": window.dilation[0],
        "dilation_x": window.dilation[1],
        "stride_y": window.stride[0],
        "stride_x": window.stride[1],
        "pad_top": window.pads[0],
        "pad_left": window.pads[1],
    }
