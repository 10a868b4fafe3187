"""Nested loops with constant strides, found in a list of places.

Transposition, padding, slicing and resizing by a whole factor all are such loops: a few numbers instead of an index for
each element.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["DEPTH", "Loops", "nest"]

DEPTH = 6


@dataclass(frozen=True)
class Loops:
    """Innermost last: how often, and how far the place written and the place read move each time."""

    first_to: int
    first_from: int
    count: tuple[int, ...]
    to: tuple[int, ...]
    source: tuple[int, ...]

    def padded(self, name: str) -> list[int]:
        """`count`, `to` or `source` for DEPTH loops; the outer ones run once."""
        values = list(getattr(self, name))
        return [1 if name == "count" else 0] * (DEPTH - len(values)) + values


def nest(index: np.ndarray) -> Loops | None:
    """The loops that write output[i] = input[index[i]] wherever index[i] >= 0; None when there are too many or none."""
    to = np.flatnonzero(index >= 0)
    source = index[to]
    if to.size == 0:
        return None
    first = int(to[0]), int(source[0])
    found: list[tuple[int, int, int]] = []
    while to.size > 1:
        step_to, step_from = int(to[1] - to[0]), int(source[1] - source[0])
        same = (np.diff(to) == step_to) & (np.diff(source) == step_from)
        count = int(np.argmin(same)) + 1 if not same.all() else to.size
        if to.size % count:
            return None
        offsets = np.arange(count)
        blocks_to, blocks_from = to.reshape(-1, count), source.reshape(-1, count)
        if (blocks_to != blocks_to[:, :1] + offsets * step_to).any():
            return None
        if (blocks_from != blocks_from[:, :1] + offsets * step_from).any():
            return None
        found.append((count, step_to, step_from))
        to, source = blocks_to[:, 0], blocks_from[:, 0]
    if len(found) > DEPTH:
        return None
    counts, steps_to, steps_from = zip(*reversed(found), strict=True) if found else ((), (), ())
    return Loops(*first, counts, steps_to, steps_from)
