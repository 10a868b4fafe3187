"""Depthwise convolutions: the geometry of a channel's plane, and the kernel that convolves it."""

from __future__ import annotations

from edgeopt.mcu.call import Array, ByCore, Call, numbers, size_fields, window_fields
from edgeopt.mcu.cores import HELIUM, PACKINGS, Packing
from edgeopt.mcu.program import Conv

__all__ = ["lower_depthwise", "tiles"]

TILE = 4
"""Helium: rows and columns of the window that one instruction takes."""


def lower_depthwise(op: Conv) -> Call:
    """A convolution where every output channel reads one input channel."""
    name, window = op.output.name, op.window
    arrays = (
        Array(f"{name}_weights", "int8_t", numbers(op.weights)),
        Array(f"{name}_bias", "int32_t", numbers(op.bias)),
        Array(f"{name}_scale", "float", numbers(op.scale)),
    )
    planes = {packing: Plane(op, packing) for packing in PACKINGS}
    fields = {
        "weights": arrays[0].name,
        "bias": arrays[1].name,
        "scale": arrays[2].name,
        "plane_kernel": _kernel(op),
        **size_fields(op.image, op.made),
        "row": ByCore({p: plane.row for p, plane in planes.items()}),
        "size": ByCore({p: plane.size for p, plane in planes.items()}),
        "weight_bytes": ByCore({p: plane.weights for p, plane in planes.items()}),
        **window_fields(window),
        "strips": ByCore({p: int(plane.strips) for p, plane in planes.items()}),
        "in_zero": op.inputs[0].zero,
        "out_zero": op.output.zero,
    }
    return Call(
        op,
        ("depthwise", "depthwise_plain", "depthwise_dsp", "depthwise_helium"),
        f"depthwise(&{name}, {{0}}, {{out}}, {{scratch}})",
        "depthwise_t",
        fields,
        arrays,
        scratch={p: plane.bytes for p, plane in planes.items()},
        over={0: 0} if _fits(op) else {},
    )


class Plane:
    """Sizes of a channel's plane for one packing, in elements; `weights` are bytes.

    A kernel makes four or eight outputs at once; what it reads too much for that lies in the next row, or after the
    plane.
    """

    def __init__(self, op: Conv, packing: Packing) -> None:
        window, made, image = op.window, op.made, op.image
        height = max(window.pads[0] + image.height, (made.height - 1) * window.stride[0] + window.extent[0])
        columns = max(window.pads[1] + image.width, (made.width - 1) * window.stride[1] + window.extent[1])
        self.row = _multiple(columns, 2)
        self.weights = 24 * window.kernel[0]  # DSP: up to six words for each row of the window
        slack = 8 * window.stride[1] + 8
        self.strips = packing is HELIUM and _in_tiles(op)
        if self.strips:
            deep, across = tiles(op)
            self.row = 4 * _multiple(columns, 4)
            self.weights = 2 * deep * across * TILE * TILE
            height, slack = -(-height // 2) + 2 * deep + 1, TILE * slack
        self.size = _multiple(height * self.row + slack, 16)
        self.bytes = packing.element_bytes * self.size + self.weights


def _kernel(op: Conv) -> str:
    """Which kernel convolves the planes; each core has those of them that are worth it."""
    window = op.window
    if not _in_tiles(op):
        return "depthwise_any"
    if tiles(op) == (1, 1) and window.kernel[1] <= 3:
        return f"depthwise_three_{window.stride[1]}"
    return f"depthwise_{'five' if window.kernel[1] <= 5 else 'wide'}_{window.stride[1]}"


def tiles(op: Conv) -> tuple[int, int]:
    """Helium: tiles of the window, down and across; down with room for the same window one row lower."""
    (height, width), twice = op.window.kernel, int(op.window.stride[0] == 1)
    return _multiple(height + twice, TILE) // TILE, _multiple(width, TILE) // TILE


def _in_tiles(op: Conv) -> bool:
    """Whether the window has neither gaps nor long strides (nor outputs whose distance is over 16 bits)."""
    near = (max(op.image.width, op.made.width) + TILE) * op.made.channels < 1 << 16
    return op.window.dilation == (1, 1) and max(op.window.stride) <= 2 and near


def _fits(op: Conv) -> bool:
    """Whether every output pixel has an input pixel whose place it can take."""
    return (
        op.made.channels == op.image.channels and op.made.height <= op.image.height and op.made.width <= op.image.width
    )


def _multiple(size: int, step: int) -> int:
    return -(-size // step) * step
