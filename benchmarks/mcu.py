"""Instructions, flash and RAM of the C code on Cortex-M cores, in QEMU, and outputs that differ from onnxruntime.

python benchmarks/mcu.py [--cores cortex-m4,cortex-m7,cortex-m55] [--samples 4] > docs/benchmarks/mcu.md

Needs gcc-arm-none-eabi, libnewlib-arm-none-eabi and qemu-system-arm. Counts are deterministic for one compiler. Figures
of CMSIS-NN (2026-07, -O2, same emulator) are quoted as published in issue 6; they are not measured here.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from edgeopt.mcu.build import CORES, Run, run_on_core
from edgeopt.mcu.compile import Compiled, compile_model
from edgeopt.mcu.reference import Reference

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from mcu_graphs import NETWORKS

QUOTED = {
    "ResNet8": {"cortex-m4": 2.39, "cortex-m7": 2.39, "cortex-m55": 0.39},
    "depthwise 3x3, 64 channels, 16x16": {"cortex-m4": 7.96, "cortex-m55": 2.33},
    "1x1, 64 to 64, 16x16": {"cortex-m4": 2.07, "cortex-m55": 0.39},
    "residual add, 64x16x16": {"cortex-m4": 81.0, "cortex-m55": 13.8},
}
"""Instructions per MAC, of the addition per element."""


@dataclass(frozen=True)
class Row:
    network: str
    core: str
    compiled: Compiled
    run: Run
    mismatches: int

    def text(self) -> str:
        program, run = self.compiled.program, self.run
        unit, count = ("MAC", program.macs) if program.macs else ("element", program.output.size)
        quoted = QUOTED[self.network].get(self.core)
        return (
            f"| {self.network} | {self.core} | {run.instructions:,.0f} | {run.instructions / count:.3f} per {unit} "
            f"| {quoted if quoted is not None else ''} | {run.code_bytes:,} | {run.constant_bytes:,} "
            f"| {run.static_bytes:,} | {run.stack_bytes:,} | {self.mismatches} of {run.outputs.size:,} |"
        )


def measure(network: str, core: str, samples: int) -> Row:
    """One network on one core, every output compared."""
    model = NETWORKS[network]()
    compiled = compile_model(model)
    reference = Reference(model, compiled.program)
    inputs = reference.noise(samples, seed=1)
    with tempfile.TemporaryDirectory() as folder:
        run = run_on_core(compiled, inputs, core, Path(folder))
    return Row(network, core, compiled, run, int((run.outputs != reference.run(inputs)).sum()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cores", default="cortex-m4,cortex-m7,cortex-m55", help=", ".join(CORES))
    parser.add_argument("--samples", type=int, default=4)
    arguments = parser.parse_args()
    compiler = subprocess.run(["arm-none-eabi-gcc", "--version"], capture_output=True, text=True, check=True)
    emulator = subprocess.run(["qemu-system-arm", "--version"], capture_output=True, text=True, check=True)
    print("# The C code in instructions\n")
    print(f"`python benchmarks/mcu.py`: {compiler.stdout.splitlines()[0]}, -O2;")
    print(f"{emulator.stdout.splitlines()[0]}, -icount shift=0.")
    print(
        "Weights and inputs are random. Instructions are those of one inference and say nothing of cycles. Bytes are of"
    )
    print("all but the harness. CMSIS-NN's column (2026-07, -O2, same emulator) is quoted as published in issue 6, not")
    print("measured here.\n")
    print("| network | core | instructions | edgeopt | CMSIS-NN | code | constants | static | stack | differ |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for network in NETWORKS:
        for core in arguments.cores.split(","):
            print(measure(network, core, arguments.samples).text(), flush=True)


if __name__ == "__main__":
    main()
