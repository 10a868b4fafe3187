"""A device: one microcontroller as a YAML file of facts, each with its source.

Flash and RAM are limits. A frame rate is estimated from the clock and the published cycles (`edgeopt.mcu.estimate`).
A device of your own is one more file: copy the one whose core it has, change it, and pass its path.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from edgeopt.spec import Spec
from edgeopt.tiers.read import list_names, read_spec
from edgeopt.units import Bytes

__all__ = ["Confidence", "CyclesPerInstruction", "Device", "Runtime", "list_devices", "load_device"]

HERE = Path(__file__).parent / "devices"

Confidence = Literal["read", "derived", "recalled"]
"""read: in the source named. derived: computed from such figures. recalled: common knowledge, not checked again."""


class Runtime(Spec):
    """What a published runtime takes on this core: cycles for one multiply-add of each kind of layer.

    Activation traffic and requantization are inside the coefficients, so additions and pools need none of their own.
    """

    name: str
    conv: float = Field(gt=0, description="dense and 1x1 convolutions")
    depthwise: float = Field(gt=0)
    dense: float = Field(gt=0, description="fully connected layers")
    large_dense: float | None = Field(
        None,
        gt=0,
        description="fully connected layers of 1000 outputs and more, whose weights are streamed; none: as dense",
    )
    error: str = Field("", description="how far the coefficients are from the figures they were fitted to")
    source: str
    confidence: Confidence = "derived"


class CyclesPerInstruction(Spec):
    """Bounds on the cycles that one instruction of a kernel takes on average, wait states of the flash included."""

    low: float = Field(gt=0)
    high: float = Field(gt=0)
    basis: str = Field(description="how the bounds were found")

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.low > self.high:
            raise ValueError(f"low {self.low} is above high {self.high}")
        return self


class Device(Spec):
    """One microcontroller, run at its highest clock from its own flash and RAM."""

    name: str
    description: str
    core: str = Field(description="as the compiler calls it: cortex-m4")
    target: str = Field(description="the core whose instructions `edgeopt verify` counts for it")
    clock_mhz: float = Field(gt=0)
    flash_bytes: Bytes = Field(description="room for code and constants: a hard limit")
    ram_bytes: Bytes = Field(description="largest contiguous block, where the arena and the stack lie: a hard limit")
    cycles_per_instruction: CyclesPerInstruction
    runtimes: tuple[Runtime, ...] = Field(
        min_length=1, description="published figures; first the one that is measured best on this device or its core"
    )
    sources: tuple[str, ...] = Field(min_length=1, description="of memory sizes and clock")
    confidence: dict[str, Confidence] = Field({}, description="of flash, ram and clock")
    notes: str = ""


def list_devices() -> list[str]:
    """Names of the devices that ship, in order."""
    return list_names(HERE)


def load_device(reference: str) -> Device:
    """`"stm32h743"` or `"path/to/mine.yaml"` -> Device. Raises UsageError naming file and key."""
    return read_spec(Device, reference, HERE)
