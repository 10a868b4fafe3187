"""What a run is computed with: precision and threads, by a rule and not a stopwatch, so that it can be repeated.

Measured on two cores with AVX512-BF16, channels_last, one training step, images/s in fp32 and bf16:

    ResNet8, 3x32x32, 12.5 M MACs              1,965    3,517
    residual width 32, 1x8x8, 3.1 M MACs       6,752    7,124
    residual width 8, 1x8x8, 0.2 M MACs       10,087    6,185
    depthwise-separable, 3x32x32               2,479    1,427

Small layers lose to conversions what they gain in arithmetic, and grouped convolution has no fast bf16
kernel. In the same way a second thread costs a tiny network more than it brings.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from edgeopt.train.settings import Compile, Precision

__all__ = ["Arithmetic", "choose_compile", "choose_precision", "choose_threads", "count_arithmetic"]

BF16_FROM_MACS = 6_000_000
"""Dense MACs per sample from which bf16 pays on a CPU."""
THREADS_FROM_MACS = 300_000_000
"""MACs per batch (forward) from which more threads are used. Below, they gain little (15 % at 136 M on two idle
cores) and risk much: threads that wait for one another at every small layer made the same run 40 times slower
while another process held one of the cores."""

COMPILE_FROM_STEPS = 10_000
"""Steps from which a GPU's run compiles its network: a minute or two, which some milliseconds a step have to earn (an
estimate). A CPU never does unasked: ResNet8 in bf16, 128 images a step on one core, took 68 ms a step compiled, 75 to
83 ms as it is, and 207 s to compile on a busy machine."""


@dataclass(frozen=True)
class Arithmetic:
    """MACs of one forward pass of one sample, in dense and in grouped convolutions and matrix products."""

    dense_macs: int
    grouped_macs: int


def choose_precision(wanted: Precision, device: torch.device, arithmetic: Arithmetic) -> Precision:
    """`wanted`, or for auto what is fastest on the device."""
    if wanted != "auto":
        return wanted
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    large = arithmetic.dense_macs >= BF16_FROM_MACS and not arithmetic.grouped_macs
    return "bf16" if large and _cpu_has_bf16() else "fp32"


def choose_compile(wanted: Compile, device: torch.device, steps: int) -> bool:
    """`wanted`, or for auto: whether a run of so many steps on the device is likely to gain by it."""
    if wanted == "auto":
        return device.type == "cuda" and steps >= COMPILE_FROM_STEPS
    return bool(wanted)


def choose_threads(available: int, batch: int, arithmetic: Arithmetic) -> int:
    """Threads for a process that may use `available` cores and trains on `batch` samples a step."""
    macs = (arithmetic.dense_macs + arithmetic.grouped_macs) * batch
    return max(1, available) if macs >= THREADS_FROM_MACS else 1


def count_arithmetic(module: nn.Module, sample: Tensor) -> Arithmetic:
    """Count one forward pass in eval mode. `sample` is one prepared sample, [1, ...], on the module's device."""
    training = module.training
    module.eval()
    count = _Count()
    with torch.no_grad(), count:
        module(sample)
    module.train(training)
    return Arithmetic(count.dense_macs, count.grouped_macs)


def _cpu_has_bf16() -> bool:
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


class _Count(TorchDispatchMode):
    """Adds up MACs as operators go by."""

    def __init__(self) -> None:
        super().__init__()
        self.dense_macs = self.grouped_macs = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.convolution.default:
            macs = out.numel() * args[1][0].numel()
            grouped = args[8] > 1
            self.grouped_macs += macs * grouped
            self.dense_macs += macs * (not grouped)
        elif func in (torch.ops.aten.mm.default, torch.ops.aten.bmm.default):
            self.dense_macs += out.numel() * args[0].shape[-1]
        elif func is torch.ops.aten.addmm.default:
            self.dense_macs += out.numel() * args[1].shape[-1]
        return out
