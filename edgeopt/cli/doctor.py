"""`edgeopt doctor`."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
import shutil
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from edgeopt.cli.console import console, print_json
from edgeopt.machine import cpu_count, cpu_info, cpu_name, memory_bytes

__all__ = ["doctor"]

PACKAGES = (
    "torch",
    "torchvision",
    "onnx",
    "onnx-ir",
    "onnxscript",
    "onnxruntime",
    "onnxsim",
    "lightning-fabric",
)
EXTRAS = {"timm": "models of timm: pip install 'edgeopt[timm]'"}
PROGRAMS = {
    "gcc": "C programs on this machine: apt-get install gcc",
    "arm-none-eabi-gcc": "C programs for Cortex-M: apt-get install gcc-arm-none-eabi libnewlib-arm-none-eabi",
    "qemu-system-arm": "C programs on emulated cores: apt-get install qemu-system-arm",
}
INT8_FEATURES = {
    "avx512_vnni": "AVX512-VNNI",
    "avx_vnni": "AVX-VNNI",
    "amx_int8": "AMX int8",
    "asimddp": "Arm dot product",
    "i8mm": "Arm int8 matrix multiply",
}


def doctor(as_json: Annotated[bool, typer.Option("--json", help="Machine-readable output.")] = False) -> None:
    """Say what this machine has and what is missing."""
    findings = examine()
    if as_json:
        print_json(findings)
        return
    from rich.table import Table

    table = Table(box=None, pad_edge=False, show_header=False)
    for key, value in findings.items():
        shown = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else value
        table.add_row(f"[bold]{key}[/]", ", ".join(shown) if isinstance(shown, list) else str(shown))
    console().print(table)


def examine() -> dict[str, Any]:
    """Versions, processor, memory and hints; imports nothing heavy but torch's CUDA check."""
    features = {flag for key, value in cpu_info() if key in ("flags", "Features") for flag in value.split()}
    int8 = [name for flag, name in INT8_FEATURES.items() if flag in features]
    hints = [hint for module, hint in EXTRAS.items() if importlib.util.find_spec(module) is None]
    hints += [hint for program, hint in PROGRAMS.items() if shutil.which(program) is None]
    if not int8:
        hints.append("this processor has no int8 dot product: int8 models may be slower than float here")
    versions = {name: _version(name) for name in PACKAGES}
    hints += [f"{name} is missing: install edgeopt again" for name, found in versions.items() if found == "missing"]
    return {
        "edgeopt": _version("edgeopt"),
        "python": platform.python_version(),
        "system": platform.platform(),
        "processor": cpu_name(),
        "cores": cpu_count(),
        "int8": int8 or "no int8 dot product found",
        "memory_gb": _memory_gb(),
        "free_disk_gb": round(shutil.disk_usage(Path.cwd()).free / 1e9, 1),
        "gpu": _gpu(),
        "packages": versions,
        "hints": hints or "nothing is missing",
    }


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "missing"


def _memory_gb() -> float | None:
    try:
        return round(memory_bytes() / 1e9, 1)
    except (AttributeError, ValueError, OSError):
        return None


def _gpu() -> str:
    if importlib.util.find_spec("torch") is None:
        return "unknown: torch is missing"
    import torch

    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name(0)} (CUDA {torch.version.cuda})"
    return "none that torch can use" if sys.platform != "darwin" else "none (CPU is used)"
