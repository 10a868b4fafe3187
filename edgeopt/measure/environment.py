"""The circumstances of a measurement: without them a latency means nothing."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from edgeopt import __version__
from edgeopt.machine import cpu_count, cpu_name

__all__ = ["environment"]

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


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
