"""Axes: where a figure lies on a chart, and which ticks a reader is given."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

__all__ = ["Axis", "linear_axis", "size_axis"]

LOG_FROM = 6.0
"""A range whose ends differ by more than this factor is drawn on a logarithmic axis."""

LOG_STEPS = ((1, 2, 5), (1, 3), (1,))
"""Ticks of a logarithmic axis within each power of ten, densest first."""

MOST_TICKS = 5


@dataclass(frozen=True)
class Axis:
    """A figure's range mapped onto 0..1."""

    label: str
    low: float
    high: float
    ticks: tuple[float, ...]
    format: Callable[[float], str]
    logarithmic: bool = False

    def place(self, value: float) -> float:
        """0 at `low`, 1 at `high`."""
        if self.logarithmic:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)


def linear_axis(
    label: str,
    values: Sequence[float],
    format: Callable[[float], str],
    floor: float = -math.inf,
    ceiling: float = math.inf,
) -> Axis:
    """An axis over `values` with some room, never past `floor` and `ceiling`."""
    low, high = min(values), max(values)
    room = 0.12 * (high - low) or 0.05 * abs(high) or 1.0
    low, high = max(low - room, floor), min(high + room, ceiling)
    step = _nice((high - low) / 4)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return Axis(label, low, high, tuple(n * step for n in range(first, last + 1)), format)


def size_axis(label: str, values: Sequence[float], format: Callable[[float], str]) -> Axis:
    """An axis for positive figures: from 0, or logarithmic where they differ by a large factor."""
    low, high = min(values), max(values)
    if low <= 0 or high / low < LOG_FROM:
        return linear_axis(label, [0.0, high or 1.0], format, floor=0.0)
    low, high = low / 1.6, high * 1.6
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    choices = [[m * 10.0**n for n in decades for m in steps if low <= m * 10.0**n <= high] for steps in LOG_STEPS]
    ticks = next((ticks for ticks in choices if len(ticks) <= MOST_TICKS), choices[-1])
    return Axis(label, low, high, tuple(ticks), format, logarithmic=True)


def _nice(step: float) -> float:
    """The next 1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(power * m for m in (1, 2, 5, 10) if power * m >= step * (1 - 1e-9))
