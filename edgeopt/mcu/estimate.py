"""How fast a device would be: an estimate with a band, and what it rests on. Nothing here was measured on a board.

Two ways, which share nothing:

- From instructions counted in the emulator, times the cycles that an instruction takes on the device's core, between
  bounds.
- From published runtimes: cycles = conv * MACs of convolutions + depthwise * MACs of depthwise ones + dense * MACs of
  fully connected layers, with coefficients fitted to latencies of real boards. The same network differs between
  runtimes by 1.5 to 4 times, so this says what others reach on the core; it says nothing of our code.

A middle figure is the geometric mean of the bounds: what is known is a ratio.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from edgeopt.mcu.program import Conv, Op, Program
from edgeopt.tiers.device import Device, Runtime

__all__ = ["LARGE_OUTPUTS", "FrameRate", "Work", "cycles_of", "from_instructions", "from_runtimes", "work_of"]

LARGE_OUTPUTS = 1000
"""Outputs from which a fully connected layer counts as large: the published figures have 1000 classes."""


@dataclass(frozen=True)
class Work:
    """Multiply-adds of one inference by kind of layer."""

    conv: int = 0
    depthwise: int = 0
    dense: int = 0
    large_dense: int = 0


@dataclass(frozen=True)
class FrameRate:
    """Inferences a second: `low` to `high`, and in between what is likeliest."""

    low: float
    middle: float
    high: float
    basis: str
    """What it rests on, a sentence."""


def work_of(program: Program) -> Work:
    """What a program multiplies."""
    kinds = [(_kind(op), op.macs) for op in program.ops]
    return Work(**{kind: sum(macs for own, macs in kinds if own == kind) for kind in Work.__dataclass_fields__})


def _kind(op: Op) -> str:
    if not isinstance(op, Conv) or op.depthwise:
        return "depthwise"  # an operator that is no convolution has no multiply-adds
    if op.image.height * op.image.width > 1:
        return "conv"
    return "dense" if op.made.size < LARGE_OUTPUTS else "large_dense"


def cycles_of(work: Work, runtime: Runtime) -> float:
    """Cycles of one inference with a published runtime."""
    large = runtime.dense if runtime.large_dense is None else runtime.large_dense
    convolutions = work.conv * runtime.conv + work.depthwise * runtime.depthwise
    return convolutions + work.dense * runtime.dense + work.large_dense * large


def from_instructions(instructions: float, device: Device) -> FrameRate:
    """The rate of a program of which one inference takes `instructions` on the device's core."""
    per = device.cycles_per_instruction
    low, high = (_rate(instructions * cycles, device) for cycles in (per.high, per.low))
    basis = (
        f"{instructions:,.0f} instructions, counted on an emulated {device.target}, at {per.low:g} to {per.high:g} "
        f"cycles each and {device.clock_mhz:g} MHz"
    )
    return FrameRate(low, math.sqrt(low * high), high, basis)


def from_runtimes(work: Work, device: Device) -> FrameRate | None:
    """The rate that published runtimes would reach, from the slowest to the fastest; None for a network without MACs.

    The middle is the device's first runtime.
    """
    cycles = [cycles_of(work, runtime) for runtime in device.runtimes]
    if not all(cycles):
        return None
    rates = [_rate(count, device) for count in cycles]
    basis = f"published cycles per MAC of {device.runtimes[0].name}"
    others = len(device.runtimes) - 1
    basis += f" (middle) and {others} other{'s' if others > 1 else ''} (band)" if others else ""
    return FrameRate(min(rates), rates[0], max(rates), basis)


def _rate(cycles: float, device: Device) -> float:
    return device.clock_mhz * 1e6 / cycles
