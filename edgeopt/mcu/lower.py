"""From an operator of the program to one call of a kernel: its constants, its scratch memory, its text.

One function for each type of operator, in this file or, where there is more to it, in one of its own (`lower_conv`).
"""

from __future__ import annotations

import math
from functools import singledispatch

import numpy as np

from edgeopt.mcu.call import Array, Call, numbers, window_fields
from edgeopt.mcu.lower_conv import lower_conv
from edgeopt.mcu.program import Add, AveragePool, Concat, Conv, Copy, Image, MaxPool, Mul, Op, Softmax, Table, Window
from edgeopt.mcu.strides import nest
from edgeopt.mcu.tables import softmax_table

__all__ = ["lower"]


@singledispatch
def lower(op: Op) -> Call:
    """The call that computes `op`."""
    raise NotImplementedError(type(op).__name__)


lower.register(Conv)(lower_conv)


@lower.register
def _(op: Add) -> Call:
    name = op.output.name
    fields = {
        "scale_a": op.scale_a,
        "scale_b": op.scale_b,
        "offset": op.offset,
        "size": op.output.size,
        "period": op.output.size // op.broadcast,
    }
    over = {0: 0, 1: 0} if op.broadcast == 1 else {0: 0}
    return Call(op, ("add",), f"add(&{name}, {{0}}, {{1}}, {{out}})", "add_t", fields, over=over)


@lower.register
def _(op: Mul) -> Call:
    fields = {
        "scale": op.scale,
        "size": op.output.size,
        "period": op.output.size // op.broadcast,
        "a_zero": op.inputs[0].zero,
        "b_zero": op.inputs[1].zero,
        "out_zero": op.output.zero,
    }
    over = {0: 0, 1: 0} if op.broadcast == 1 else {0: 0}
    return Call(op, ("mul",), f"mul(&{op.output.name}, {{0}}, {{1}}, {{out}})", "mul_t", fields, over=over)


@lower.register
def _(op: Table) -> Call:
    values = Array(f"{op.output.name}_values", "int8_t", numbers(op.values))
    text = f"table({values.name}, {{0}}, {{out}}, {op.output.size})"
    return Call(op, ("table",), text, arrays=(values,), over={0: 0})


@lower.register
def _(op: MaxPool) -> Call:
    text = f"maxpool(&{op.output.name}, {{0}}, {{out}})"
    fields = _pool(op.image, op.made, op.window)
    return Call(op, ("pool", "maxpool"), text, "pool_t", fields, over=_behind(op.image, op.made, op.window))


@lower.register
def _(op: AveragePool) -> Call:
    source, name = op.inputs[0], op.output.name
    if op.everything:
        pixels = op.image.height * op.image.width
        fields = {
            "scale": np.float32(source.scale / np.float32(np.float32(pixels) * op.output.scale)),
            "pixels": pixels,
            "channels": op.image.channels,
            "in_zero": source.zero,
            "out_zero": op.output.zero,
        }
        return Call(op, ("mean",), f"mean(&{name}, {{0}}, {{out}})", "mean_t", fields)
    fields = _pool(op.image, op.made, op.window) | {
        "count_padding": int(op.count_padding),
        "in_zero": source.zero,
        "out_zero": op.output.zero,
        "in_scale": source.scale,
        "out_scale": op.output.scale,
    }
    text = f"avgpool(&{name}, {{0}}, {{out}})"
    return Call(op, ("pool", "avgpool"), text, "pool_t", fields, over=_behind(op.image, op.made, op.window))


@lower.register
def _(op: Concat) -> Call:
    row = op.output.size // op.rows
    arrays, lines, at = [], [], 0
    for number, (source, values) in enumerate(zip(op.inputs, op.tables, strict=True)):
        length = source.size // op.rows
        name = "NULL"
        if values is not None:
            name = f"{op.output.name}_values{number}"
            arrays.append(Array(name, "int8_t", numbers(values)))
        lines.append(f"concat({name}, {{{number}}}, {{out}} + {at}, {op.rows}, {length}, {row})")
        at += length
    return Call(op, ("concat",), ";\n    ".join(lines), arrays=tuple(arrays))


@lower.register
def _(op: Copy) -> Call:
    name = op.output.name
    loops = nest(op.index)
    if loops is None:
        source = Array(f"{name}_from", "int32_t", numbers(op.index))
        text = f"gather({source.name}, {{0}}, {{out}}, {op.output.size}, {op.fill})"
        return Call(op, ("gather",), text, arrays=(source,))
    fields = {
        "size": op.output.size,
        "first_to": loops.first_to,
        "first_from": loops.first_from,
        "count": loops.padded("count"),
        "to": loops.padded("to"),
        "from": loops.padded("source"),
        "fill": op.fill,
        "filled": int(bool((op.index < 0).any())),
    }
    return Call(op, ("move",), f"move(&{name}, {{0}}, {{out}})", "move_t", fields)


@lower.register
def _(op: Softmax) -> Call:
    name, source = op.output.name, op.inputs[0]
    length = op.output.size // op.rows
    values = softmax_table(source.scale, length)
    array = Array(f"{name}_exponentials", "float", numbers(values))
    fields = {
        "exponentials": array.name,
        "factor": np.float32(math.floor(np.float32(1.0) / op.output.scale)),
        "rows": op.rows,
        "length": length,
        "out_zero": op.output.zero,
    }
    text = f"softmax(&{name}, {{0}}, {{out}})"
    return Call(op, ("softmax",), text, "softmax_t", fields, arrays=(array,), over={0: 0})


def _pool(image: Image, made: Image, window: Window) -> dict[str, object]:
    return {
        "in_height": image.height,
        "in_width": image.width,
        "out_height": made.height,
        "out_width": made.width,
        "channels": image.channels,
        **window_fields(window),
    }


def _behind(image: Image, made: Image, window: Window) -> dict[int, int]:
    """Lead of a kernel that reads windows where they lie: outputs may cover rows that no later window reads."""
    rows = (max(0, y * window.stride[0] - window.pads[0]) for y in range(made.height))
    written, read = made.width * made.channels, image.width * image.channels
    return {0: max((y + 1) * written - row * read for y, row in enumerate(rows))}
