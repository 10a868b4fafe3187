"""Build a model's C program, run it, and hold every output value against onnxruntime's.

On the host this takes a C compiler, on a core the cross compiler and the emulator. What a core run counts is exact and
the same everywhere: instructions, bytes of flash, bytes of RAM. It knows nothing of cycles; see `estimate` for those.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgeopt.errors import UsageError
from edgeopt.mcu.arena import Arena
from edgeopt.mcu.build import CORES, Run, run_on_core, run_on_host
from edgeopt.mcu.compile import Compiled
from edgeopt.mcu.read import read_program
from edgeopt.mcu.reference import Reference
from edgeopt.model.model import Model

__all__ = ["HOST", "TARGETS", "Verification", "basis", "check_target", "totals", "verify", "verify_written"]

HOST = "host"
TARGETS = (HOST, *CORES)
WRITTEN_TARGET = "cortex-m4"
"""What a run measures its C program on: a common core, and the larger of the two packings."""
WRITTEN_SAMPLES = 4


@dataclass(frozen=True)
class Verification:
    """What one target made of some inputs. Figures that a host build does not tell are None."""

    target: str
    samples: int
    mismatches: int
    """Output values that differ from onnxruntime's."""
    wrong_samples: int
    """Inputs with at least one of them."""
    macs: int
    run: Run | None = None
    """None: on the host."""

    @property
    def instructions(self) -> float | None:
        """Of one inference."""
        return self.run.instructions if self.run else None

    @property
    def instructions_per_mac(self) -> float | None:
        return self.run.instructions / self.macs if self.run and self.macs else None

    @property
    def flash_bytes(self) -> int | None:
        """Code and constants."""
        return self.run.code_bytes + self.run.constant_bytes if self.run else None

    @property
    def ram_bytes(self) -> int | None:
        """The static arena and the stack at its deepest."""
        return self.run.static_bytes + self.run.stack_bytes if self.run else None


def check_target(target: str) -> None:
    """Raise UsageError for a target that is none."""
    if target not in TARGETS:
        raise UsageError(f"there is no target {target!r}", where="--target", fix=f"choose one of {', '.join(TARGETS)}")


def verify(compiled: Compiled, inputs: np.ndarray, expected: np.ndarray, target: str) -> Verification:
    """Run `inputs`, int8 [count, size], on `target` and compare with `expected`, int8 [count, output size].

    Both in memory order, as `Reference` makes them. Raises UsageError for an unknown target or no inputs, StageFailed
    when a tool is missing or the program cannot be built.
    """
    check_target(target)
    if not len(inputs):
        raise UsageError("there is no sample to run", fix="give at least one")
    with tempfile.TemporaryDirectory(prefix="edgeopt-") as folder:
        if target == HOST:
            run, found = None, run_on_host(compiled, inputs, Path(folder))
        else:
            run = run_on_core(compiled, inputs, target, Path(folder))
            found = run.outputs
    wrong = found != expected
    return Verification(
        target=target,
        samples=len(inputs),
        mismatches=int(wrong.sum()),
        wrong_samples=int(wrong.any(axis=1).sum()),
        macs=compiled.program.macs,
        run=run,
    )


def verify_written(model: Model, folder: Path, name: str = "model", target: str = WRITTEN_TARGET) -> Verification:
    """Run a few random inputs through the C program that lies in `folder`. Raises StageFailed as `verify` does."""
    program = read_program(model)
    files = {own: (folder / own).read_text() for own in (f"{name}.c", f"{name}.h")}
    reference = Reference(model, program)
    inputs = reference.noise(WRITTEN_SAMPLES)
    return verify(Compiled(name, program, (), Arena({}), files), inputs, reference.run(inputs), target)


def basis(verifications: Sequence[Verification], inputs: str) -> str:
    """What figures of these targets rest on: `cortex-m4: 64 test images of digits`."""
    return ", ".join(f"{own.target}: {own.samples:,} {inputs}" for own in verifications)


def totals(verifications: Sequence[Verification]) -> dict[str, int | None]:
    """What several targets come to, as limits see it: mismatches add up, of the rest the most counts."""

    def most(values: Sequence[float | None]) -> int | None:
        return max((round(value) for value in values if value is not None), default=None)

    return {
        "mismatches": sum(own.mismatches for own in verifications),
        "instructions": most([own.instructions for own in verifications]),
        "flash_bytes": most([own.flash_bytes for own in verifications]),
        "ram_bytes": most([own.ram_bytes for own in verifications]),
    }
