"""Where onnxruntime runs a graph: on the CPU, or on a GPU where it offers one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from edgeopt.progress import SILENT, Progress

__all__ = ["CPU", "CUDA", "Device", "choose_providers"]

CPU = ("CPUExecutionProvider",)
CUDA = ("CUDAExecutionProvider", *CPU)
Device = Literal["auto", "cpu", "cuda"]


def choose_providers(
    device: Device, progress: Progress = SILENT, available: Sequence[str] | None = None
) -> tuple[str, ...]:
    """Execution providers for `device` out of those that onnxruntime offers (`available`; None asks it).

    auto: the GPU where there is one. cuda: the GPU, or with a warning the CPU.
    """
    if device == "cpu":
        return CPU
    if available is None:
        import onnxruntime as ort

        available = ort.get_available_providers()
    if CUDA[0] in available:
        return CUDA
    if device == "cuda":
        progress.warn("onnxruntime offers no CUDAExecutionProvider (install onnxruntime-gpu); the CPU is used")
    return CPU
