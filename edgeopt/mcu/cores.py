"""What differs between cores when weights are packed and memory is planned. The C text holds both; `#if` picks one."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["HELIUM", "PACKINGS", "PAIRS", "Packing"]


@dataclass(frozen=True)
class Packing:
    """A layout of weights, and of the ring of rows that goes with it."""

    name: str
    element_bytes: int
    """Of the ring."""
    step: int
    """Elements of a run that the inner loop takes at once: runs are padded to a multiple."""
    channels: int
    """Output channels computed together."""


PAIRS = Packing("pairs", element_bytes=2, step=4, channels=2)
"""For DSP instructions, and for plain C."""
HELIUM = Packing("helium", element_bytes=1, step=16, channels=4)
PACKINGS = (PAIRS, HELIUM)
