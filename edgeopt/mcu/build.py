"""Build a C program and run it: on this machine as a shared library, on a core in QEMU."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np

from edgeopt.errors import StageFailed
from edgeopt.mcu.compile import Compiled

__all__ = ["CORES", "WARNINGS", "Core", "Run", "run_on_core", "run_on_host", "write_files"]

WARNINGS = ("-Wall", "-Wextra", "-Wconversion", "-Werror")
FLAGS = ("-std=c99", "-O2", "-ffp-contract=off")
TIMEOUT_S = 600
CROSS_PACKAGES = "gcc-arm-none-eabi libnewlib-arm-none-eabi qemu-system-arm"


@dataclass(frozen=True)
class Core:
    """A core as the cross compiler and the emulator know it."""

    flags: tuple[str, ...]
    machine: str
    instructions_per_tick: float
    """QEMU with -icount shift=0 runs 1e9 instructions a second of the board's time; SysTick counts its clock."""


CORES = {
    "cortex-m3": Core(("-mcpu=cortex-m3", "-mfloat-abi=soft"), "mps2-an385", 40.0),
    "cortex-m4": Core(("-mcpu=cortex-m4", "-mfloat-abi=hard", "-mfpu=fpv4-sp-d16"), "mps2-an386", 40.0),
    "cortex-m7": Core(("-mcpu=cortex-m7", "-mfloat-abi=hard", "-mfpu=fpv5-d16"), "mps2-an500", 40.0),
    "cortex-m55": Core(("-mcpu=cortex-m55", "-mfloat-abi=hard"), "mps3-an547", 31.25),
}


@dataclass(frozen=True)
class Run:
    """What a core made of some inputs."""

    outputs: np.ndarray
    """int8 [count, size]."""
    instructions: float
    """Of one inference, the mean."""
    code_bytes: int
    constant_bytes: int
    """Both of the whole image but the harness: the model and the library functions that it needs."""
    static_bytes: int
    stack_bytes: int


def write_files(compiled: Compiled, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in compiled.files.items():
        (folder / name).write_text(text)


def run_on_host(compiled: Compiled, inputs: np.ndarray, folder: Path, *, flags: tuple[str, ...] = ()) -> np.ndarray:
    """int8 [count, size] -> int8 [count, output size], by this machine's C compiler. Raises StageFailed without one."""
    compiler = _tool("gcc", "cc", "clang", package="gcc")
    write_files(compiled, folder)
    name = compiled.name
    with tempfile.TemporaryDirectory(prefix="edgeopt-") as place:  # a library is loaded once for each path
        library = Path(place, f"{name}.so")
        options = [*FLAGS, *WARNINGS, *flags, "-shared", "-fPIC", str(folder / f"{name}.c"), "-o", str(library)]
        _command([compiler, *options])
        function = getattr(ctypes.CDLL(str(library)), f"{name}_run")
    outputs = np.zeros((len(inputs), compiled.program.output.size), np.int8)
    inputs = np.ascontiguousarray(inputs, np.int8)
    for row, out in zip(inputs, outputs, strict=True):
        function(row.ctypes.data_as(ctypes.c_void_p), out.ctypes.data_as(ctypes.c_void_p))
    return outputs


def run_on_core(compiled: Compiled, inputs: np.ndarray, core: str, folder: Path) -> Run:
    """Build for `core`, run in QEMU. Raises StageFailed without the cross compiler or the emulator."""
    target = CORES[core]
    compiler = _tool("arm-none-eabi-gcc", package=CROSS_PACKAGES)
    emulator = _tool("qemu-system-arm", package=CROSS_PACKAGES)
    write_files(compiled, folder)
    harness = files("edgeopt.mcu") / "harness"
    for file in ("main.c", "start.c", "memory.ld"):
        (folder / file).write_text((harness / file).read_text())
    name = compiled.name
    size = f"-DINPUT_SIZE={name.upper()}_INPUT_SIZE", f"-DOUTPUT_SIZE={name.upper()}_OUTPUT_SIZE"
    options = ("-mthumb", *target.flags, "-ffunction-sections", "-fdata-sections", *FLAGS)
    _command([compiler, *options, *WARNINGS, "-c", str(folder / f"{name}.c"), "-o", str(folder / "model.o")])
    renamed = (f'-DMODEL_HEADER="{name}.h"', f"-DRUN={name}_run", f"-DINPUT={name}_input", *size)
    for file in ("main", "start"):
        own = "-fno-tree-loop-distribute-patterns"  # no memcpy of the library's that the model does not need
        _command([compiler, *options, own, *renamed, "-c", str(folder / f"{file}.c"), "-o", str(folder / f"{file}.o")])
    image = folder / "image.elf"
    objects = [str(folder / f"{file}.o") for file in ("start", "main", "model")]
    linking = ["-nostartfiles", "--specs=nano.specs", "-T", str(folder / "memory.ld"), "-Wl,--gc-sections"]
    _command([compiler, *options, *objects, *linking, "-o", str(image)])
    (folder / "inputs.bin").write_bytes(np.ascontiguousarray(inputs, np.int8).tobytes())
    _command(
        [
            *(
                emulator,
                "-M",
                target.machine,
                "-nographic",
                "-monitor",
                "none",
                "-serial",
                "none",
                "-icount",
                "shift=0",
            ),
            *("-semihosting-config", "enable=on,target=native", "-kernel", "image.elf"),
        ],
        folder,
    )
    outputs = np.frombuffer((folder / "outputs.bin").read_bytes(), np.int8)
    ticks, stack = np.frombuffer((folder / "figures.bin").read_bytes(), np.uint32)
    whole, parts = _sizes(image), [_sizes(folder / f"{part}.o") for part in ("main", "start")]
    return Run(
        outputs=outputs.reshape(len(inputs), -1),
        instructions=float(ticks) * target.instructions_per_tick / len(inputs),
        code_bytes=whole[0] - sum(part[0] for part in parts),
        constant_bytes=whole[1] - sum(part[1] for part in parts),
        static_bytes=_sizes(folder / "model.o")[2],
        stack_bytes=int(stack),
    )


def _sizes(path: Path) -> tuple[int, int, int]:
    """Bytes of code, of constants (initial values of variables included), and of variables."""
    listing = _command(["arm-none-eabi-size", "-A", str(path)])
    code = constants = variables = 0
    for line in listing.splitlines():
        words = line.split()
        if len(words) < 3 or not words[1].isdigit():
            continue
        section, size = words[0], int(words[1])
        if section.startswith((".text", ".vectors")):
            code += size
        elif section.startswith((".rodata", ".data", ".ARM.ex", ".init_array")):
            constants += size
        if section.startswith((".data", ".bss")):
            variables += size
    return code, constants, variables


def _tool(*names: str, package: str) -> str:
    for name in names:
        if path := shutil.which(name):
            return path
    raise StageFailed(f"{names[0]} is not installed", fix=f"on Debian: apt-get install {package}")


def _command(words: list[str], folder: Path | None = None) -> str:
    """Standard output. Raises StageFailed with the first line of what went wrong."""
    try:
        done = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)  # noqa: S603
    except subprocess.TimeoutExpired as error:
        raise StageFailed(f"{Path(words[0]).name} was not done after {TIMEOUT_S} s", fix="run fewer samples") from error
    if done.returncode:
        said = next((line for line in done.stderr.splitlines() if "error" in line), done.stderr.strip()[:300])
        raise StageFailed(f"{Path(words[0]).name} failed: {said}", where=str(folder or ""))
    return done.stdout
