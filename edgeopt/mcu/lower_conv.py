"""Convolutions and dense layers: the geometry of the ring of rows, and weights in the order that each core reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from edgeopt.mcu.call import Array, ByCore, Call, numbers, size_fields, window_fields
from edgeopt.mcu.cores import HELIUM, PACKINGS, PAIRS, Packing
from edgeopt.mcu.lower_depthwise import lower_depthwise
from edgeopt.mcu.program import Conv, Image, Op

__all__ = ["choose_alternate", "join_rows", "lower_conv", "pack"]


def lower_conv(op: Conv) -> Call:
    """`depthwise`, `grouped` for other convolutions in groups, `conv` for the rest."""
    if op.depthwise:
        return lower_depthwise(op)
    return _grouped(op) if op.groups > 1 else _dense(op)


WIDEST = 32
"""Pixels that rows are joined up to."""


def join_rows(ops: Sequence[Op]) -> tuple[Op, ...]:
    """1x1 convolutions of stride 1 on fewer, wider rows, whose pixels come out even in blocks of three."""
    return tuple(_join(op) if isinstance(op, Conv) else op for op in ops)


def _join(op: Conv) -> Conv:
    window, height, width = op.window, op.image.height, op.image.width
    if (window.kernel, window.stride, window.pads, op.groups) != ((1, 1), (1, 1), (0, 0), 1) or op.image.size == 1:
        return op
    factors = [k for k in range(1, height + 1) if height % k == 0 and (k == 1 or width * k <= WIDEST)]
    best = min(factors, key=lambda k: (20 * (width * k // 3) + 15 * (width * k % 3 > 0) + 3) / (width * k))
    image = Image(height // best, width * best, op.image.channels)
    return replace(op, image=image, made=Image(image.height, image.width, op.made.channels))


def choose_alternate(ops: Sequence[Op]) -> tuple[Op, ...]:
    """1x1 convolutions marked `alternate`, unless a larger one has a DSP kernel for their distance of windows anyway.

    Every distance costs a kernel of more than a kilobyte; all alternate convolutions share one.
    """
    convs = [op for op in ops if isinstance(op, Conv) and op.groups == 1 and op.made.width > 1]
    small = [op for op in convs if op.window.kernel == (1, 1) and op.window.pads == (0, 0)]
    steps = {Ring(op, PAIRS).step for op in convs if op not in small}
    wanted = {op for op in small if Ring(op, PAIRS).step not in steps}
    return tuple(replace(op, alternate=True) if isinstance(op, Conv) and op in wanted else op for op in ops)


def _dense(op: Conv) -> Call:
    name, window = op.output.name, op.window
    rings = {packing: Ring(op, packing) for packing in PACKINGS}
    ring = rings[PAIRS]
    channels = _multiple(op.made.channels, 4)  # both packings find a bias and a scale for every channel they compute
    arrays = (
        Array(f"{name}_weights", "int8_t", packed={p: numbers(pack(op, r, p)) for p, r in rings.items()}),
        Array(f"{name}_bias", "int32_t", numbers(_padded(op.bias, channels))),
        Array(f"{name}_scale", "float", numbers(_padded(op.scale, channels))),
    )
    fields = {
        "weights": arrays[0].name,
        "bias": arrays[1].name,
        "scale": arrays[2].name,
        "row_kernel": f"CONV_ROW_KERNEL({_instance(ring)[0]})",
        **size_fields(op.image, op.made),
        "kernel_height": window.kernel[0],
        "dilation": window.dilation[0],
        "stride": window.stride[0],
        "pad_top": window.pads[0],
        "pad_left": window.pads[1],
        "runs_per_row": ring.runs_per_row,
        "pointwise": ByCore({p: int(r.pointwise) for p, r in rings.items()}),
        "stride_x": window.stride[1],
        "pixel": ByCore({p: r.pixel for p, r in rings.items()}),
        "step": ByCore({p: r.step for p, r in rings.items()}),
        "row": ByCore({p: r.row for p, r in rings.items()}),
        "run": ByCore({p: r.run for p, r in rings.items()}),
        "window": ByCore({p: r.window for p, r in rings.items()}),
        "run_gap": ByCore({p: r.gap for p, r in rings.items()}),
        "in_zero": op.inputs[0].zero,
        "out_zero": op.output.zero,
    }
    return Call(
        op,
        ("conv", "conv_plain", "conv_dsp", "conv_helium"),
        f"conv(&{name}, {{0}}, {{out}}, {{scratch}})",
        "conv_t",
        fields,
        arrays,
        scratch={p: r.size * p.element_bytes for p, r in rings.items()},
        over={0: _lead(op)},
        instance=_instance(ring),
        runs=ring.runs,
    )


class Ring:
    """Sizes, in elements, of the ring of rows for one packing.

    Pairs of int16 are read as words, so whatever the kernel steps by has to be even: where it would not be, each
    pixel gets one channel more, of zeros. A 1x1 convolution's row holds the pixels that are read alone, in blocks of
    three whose elements lie alternately, four by four: the distance of neighbours is then the same for all layers.
    """

    def __init__(self, op: Conv, packing: Packing) -> None:
        window, channels = op.window, op.image.channels
        self.pointwise = packing is PAIRS and op.alternate
        self.width = op.made.width
        dilated = window.dilation[1] > 1 and window.kernel[1] > 1
        self.runs_per_row = window.kernel[1] if dilated else 1
        odd = channels * window.stride[1] % 2 or (dilated and channels % 2)
        self.pixel = channels + 1 if packing is PAIRS and odd else channels
        self.step = self.pixel * window.stride[1]
        self.gap = self.pixel * window.dilation[1] if dilated else 0
        self.taps = 1 if dilated else window.kernel[1]
        self.runs = window.kernel[0] * self.runs_per_row
        self.run = self.taps * self.pixel
        if packing is PAIRS:
            self.run = _multiple(self.run, packing.step)
        self.window = _multiple(self.runs * self.run, packing.step)
        columns = max(window.pads[1] + op.image.width, (op.made.width - 1) * window.stride[1] + window.extent[1])
        self.row = columns * self.pixel
        self.row += self.row % 2
        if self.pointwise:
            self.step, self.row = self.run, _multiple(op.made.width, 3) * self.run
        self.size = window.extent[0] * self.row + packing.step
        """All rows, and what the last run may read beyond its end."""
        if packing is HELIUM:
            self.row = _multiple(self.row, packing.step)
            self.size = window.extent[0] * self.row + 2 * (self.window + packing.step)


def _instance(ring: Ring) -> tuple[str, int, int]:
    """Name of the DSP kernel for these rows, and bytes from window to window, and from four elements to the next."""
    if ring.pointwise:
        return "blocks", 8, 24
    return ("single", 0, 8) if ring.width == 1 else (str(ring.step), 2 * ring.step, 8)


def pack(op: Conv, ring: Ring, packing: Packing) -> np.ndarray:
    """int8 [groups of channels, k / step, step, channel] for pairs, [.., .., channel, step] for Helium.

    k counts through the runs: kernel rows (and columns, where dilated), in each the taps, in each the pixel's channels.
    """
    count, channels = op.weights.shape[0], op.weights.shape[-1]
    padded = _multiple(count, packing.channels)
    taps = np.zeros((padded, ring.runs, ring.taps, ring.pixel), np.int8)
    taps[:count, ..., :channels] = op.weights.reshape(count, ring.runs, ring.taps, channels)
    runs = np.zeros((padded, ring.runs, ring.run), np.int8)
    runs[..., : ring.taps * ring.pixel] = taps.reshape(padded, ring.runs, -1)
    whole = np.zeros((padded, ring.window), np.int8)
    whole[:, : ring.runs * ring.run] = runs.reshape(padded, -1)
    steps = whole.reshape(padded // packing.channels, packing.channels, -1, packing.step)
    order = (0, 2, 3, 1) if packing is PAIRS else (0, 2, 1, 3)
    return np.ascontiguousarray(steps.transpose(order))


def _multiple(size: int, step: int) -> int:
    return -(-size // step) * step


def _grouped(op: Conv) -> Call:
    name, window = op.output.name, op.window
    sums = op.weights.reshape(op.weights.shape[0], -1).astype(np.int64).sum(1)
    bias = (op.bias + op.inputs[0].zero * sums).astype(np.int32)
    arrays = (
        Array(f"{name}_weights", "int8_t", numbers(op.weights)),
        Array(f"{name}_bias", "int32_t", numbers(bias)),
        Array(f"{name}_scale", "float", numbers(op.scale)),
    )
    fields = {
        "weights": arrays[0].name,
        "bias": arrays[1].name,
        "scale": arrays[2].name,
        **size_fields(op.image, op.made),
        "groups": op.groups,
        **window_fields(window),
        "in_zero": op.inputs[0].zero,
        "out_zero": op.output.zero,
    }
    return Call(op, ("grouped",), f"grouped(&{name}, {{0}}, {{out}})", "grouped_t", fields, arrays)


def _lead(op: Conv) -> int:
    """By how many bytes the input has to begin after the output, so that no row is written over before it is loaded."""
    window = op.window
    rows = [y * window.stride[0] - window.pads[0] + window.extent[0] for y in range(op.made.height)]
    written, read = op.made.width * op.made.channels, op.image.width * op.image.channels
    leads = [(y + 1) * written - row * read for y, row in enumerate(rows) if row < op.image.height]
    return max(leads, default=-op.image.size)


def _padded(array: np.ndarray, size: int) -> np.ndarray:
    return np.concatenate([array, np.zeros(size - array.size, array.dtype)])
