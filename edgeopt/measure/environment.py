"""The circumstances of a measurement: without them a latency means nothing."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from edgeopt import __version__
from edgeopt.model.runtime import cpu_count

__all__ = ["cpu_name", "environment"]

PROVIDER = "CPUExecutionProvider"


def environment(threads: int) -> dict[str, Any]:
    """Processor, cores this process may use, threads of the latency measurement, system and versions."""
    return {
        "cpu": cpu_name(),
        "cores": cpu_count(),
        "threads": threads,
        "os": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": _version("torch"),
        "onnxruntime": _version("onnxruntime"),
        "edgeopt": __version__,
        "provider": PROVIDER,
    }


def cpu_name() -> str:
    """The processor's model name, or its architecture where the system does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "Model"))]
    return next(filter(None, names), platform.processor() or platform.machine())


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
