"""Inputs made up to try a graph on: noise for numbers, ids that are in range for tables, ones for masks."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from edgeopt.model.model import Model, TensorInfo

__all__ = ["SIDES", "open_size", "random_feeds"]

SIDES = (64, 224, 1)
"""Sizes for the dynamic height and width of an image, in the order they are worth a try."""
LENGTH = 8
"""Size of any other dynamic dim, such as the length of a sequence."""
KEEPS_VALUES = frozenset({"Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})


def random_feeds(model: Model, batch: int, seed: int = 0, side: int = SIDES[0]) -> dict[str, np.ndarray]:
    """One array for each input. Dynamic dims: the first is `batch`, later ones are `side` in inputs of rank 4 and more
    and LENGTH in others; one name has one size everywhere.

    Floats are normal noise. Integers that look up rows of a constant table are random and in its range; uint8 images
    are random pixels; any other integer or boolean is 1, which masks nothing out.
    """
    generator = np.random.default_rng(seed)
    values = {value.name: value for value in model.graph.graph.inputs}
    sizes: dict[str, int] = {}
    for info in model.inputs:
        for axis, dim in enumerate(info.shape):
            if isinstance(dim, str) and dim != "?":
                sizes.setdefault(dim, open_size(axis, len(info.shape), batch, side))
    feeds = {}
    for info in model.inputs:
        shape = [
            dim if isinstance(dim, int) else sizes.get(dim, open_size(axis, len(info.shape), batch, side))
            for axis, dim in enumerate(info.shape)
        ]
        feeds[info.name] = _fill(info, shape, values[info.name], generator)
    return feeds


def open_size(axis: int, rank: int, batch: int = 1, side: int = SIDES[0]) -> int:
    """What a dynamic dim is taken as where nothing says: the batch in front, a side of an image, or LENGTH."""
    if axis == 0:
        return batch
    return side if rank >= 4 else LENGTH


def _fill(info: TensorInfo, shape: list[int], value: ir.Value, generator: np.random.Generator) -> np.ndarray:
    if info.dtype.kind not in "iub":
        return generator.standard_normal(shape).astype(info.dtype)
    rows = min(_tables(value), default=0)
    if rows:
        return generator.integers(0, rows, shape).astype(info.dtype)
    if info.dtype == np.uint8 and len(shape) >= 3:
        return generator.integers(0, 256, shape).astype(np.uint8)
    return np.ones(shape, info.dtype)


def _tables(value: ir.Value) -> Iterator[int]:
    """Rows of every constant table in which the value's entries are looked up."""
    for node, index in value.uses():
        if node.op_type == "Gather" and index == 1:
            table = node.inputs[0]
            if table is not None and table.const_value is not None:
                shape = table.const_value.shape.numpy()
                axis = node.attributes.get_int("axis", 0)
                yield int(shape[axis]) if shape else 0
        elif node.op_type in KEEPS_VALUES and index == 0:
            yield from _tables(node.outputs[0])
