"""What this process runs on, by the standard library alone: `edgeopt doctor` asks when packages may be missing."""

from __future__ import annotations

import os
import platform
from pathlib import Path

__all__ = ["cpu_count", "cpu_info", "cpu_name", "memory_bytes"]


def cpu_count() -> int:
    """Cores this process may use: those of the system, or as many as EDGEOPT_CORES says, if that is fewer."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limit = os.environ.get("EDGEOPT_CORES", "")
    return max(1, min(cores, int(limit))) if limit.isdecimal() else cores


def cpu_info() -> list[tuple[str, str]]:
    """The system's (key, value) lines about its processors; none where it has no such file."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return []
    parts = (line.partition(":") for line in lines)
    return [(key.strip(), value.strip()) for key, colon, value in parts if colon]


def cpu_name() -> str:
    """The processor's model name, or its architecture where the system does not tell."""
    names = (value for key, value in cpu_info() if key.startswith(("model name", "Model")))
    return next(filter(None, names), platform.processor() or platform.machine())


def memory_bytes() -> int:
    """The machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
