"""torch.compile: tried once before the first step, and given up with a warning where it fails."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from edgeopt.train.feed import prepare
from edgeopt.train.mix import mix
from edgeopt.train.objectives import all_outputs
from edgeopt.train.precision import choose_compile

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from edgeopt.train.job import Job

__all__ = ["compile_in_place", "uncompile", "uncompiled"]


def compile_in_place(module: nn.Module, job: Job, fabric: Fabric, rows: np.ndarray) -> None:
    """Make calls of `module` compiled ones if the settings want that and it works, for batches like `rows`.

    Names and tensors stay, and so does every value: what the trial changes (running statistics) is put back.
    """
    settings = job.settings
    sharded = settings.strategy == "fsdp" and fabric.world_size > 1  # FSDP puts other weights in between calls
    if sharded or not choose_compile(settings.compile, fabric.device, settings.epochs * job.steps):
        return
    part = rows[: -(-len(rows) // settings.accumulate)]
    samples = torch.from_numpy(np.ascontiguousarray(job.split.raw(part))).to(fabric.device)
    x, _ = mix(prepare(samples, job.split.preprocess, settings.augment), settings.augment)
    buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}
    module.train()
    module.compile(dynamic=False)
    try:
        with fabric.autocast():
            outputs = all_outputs(module(x))
        _sum(outputs).backward()
    except Exception as error:  # whatever a tracer, a code generator, a C++ compiler and a driver raise
        uncompile(module)
        torch._dynamo.reset()
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        job.progress.warn(f"torch.compile failed ({reason}): {job.label} goes on without it")
    finally:
        module.zero_grad(set_to_none=True)
        for name, buffer in module.named_buffers():
            buffer.copy_(buffers[name])


def uncompile(module: nn.Module) -> None:
    """Undo `compile_in_place`."""
    module._compiled_call_impl = None


@contextmanager
def uncompiled(module: nn.Module) -> Iterator[None]:
    """Without compilation inside: batches of another size, or another mode, would be compiled anew."""
    kept, module._compiled_call_impl = module._compiled_call_impl, None
    try:
        yield
    finally:
        module._compiled_call_impl = kept


def _sum(outputs: tuple[Tensor, ...]) -> Tensor:
    return torch.stack([output.float().sum() for output in outputs]).sum()
