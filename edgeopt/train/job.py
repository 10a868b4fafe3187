"""A training run before it starts: what is asked for, whether that can be done, and with what."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from edgeopt.data import Split
from edgeopt.errors import UsageError
from edgeopt.machine import cpu_count
from edgeopt.progress import Progress
from edgeopt.train.feed import prepare
from edgeopt.train.objectives import Objective
from edgeopt.train.precision import choose_precision, choose_threads, count_arithmetic
from edgeopt.train.settings import Fit

if TYPE_CHECKING:
    from lightning_fabric import Fabric

__all__ = ["Job", "check_job", "plan", "quiet_fabric", "under_torchrun"]

_FABRIC_PRECISION = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}


@dataclass(frozen=True)
class Job:
    """What is trained, on what, how: the arguments of `fit`, and the threads it was given."""

    module: nn.Module
    split: Split
    settings: Fit
    objective: Objective
    seed: int
    progress: Progress
    scratch: Path | None
    label: str
    threads: int = 1

    @property
    def batch(self) -> int:
        """Samples a step, over all devices."""
        return min(self.settings.batch_size, len(self.split))

    @property
    def steps(self) -> int:
        """Steps an epoch; what does not fill a batch is left out, other samples in each epoch."""
        return len(self.split) // self.batch

    def lr(self, epoch: int, step: int) -> float:
        """The learning rate at a step; both count from 0."""
        settings = self.settings
        done = (epoch * self.steps + step) / (settings.epochs * self.steps)
        return settings.peak_lr * settings.schedule.factor(done)


def check_job(job: Job) -> None:
    """Raise UsageError where settings, data and machine do not go together."""
    settings = job.settings
    if not len(job.split):
        raise UsageError("there are no training images", where=job.label)
    if settings.accelerator == "cuda" and torch.cuda.device_count() < settings.devices:
        raise UsageError(
            f"{settings.devices} CUDA device(s) wanted, {torch.cuda.device_count()} found",
            where=job.label,
            fix="use accelerator auto or cpu",
        )
    if job.batch % settings.devices:
        raise UsageError(
            f"a batch of {job.batch} does not divide over {settings.devices} devices",
            where=job.label,
            fix="choose a batch_size that is a multiple of devices",
        )
    if settings.precision == "fp16" and _accelerator(settings) == "cpu":
        raise UsageError("precision fp16 needs a GPU", where=job.label, fix="use precision auto or bf16")
    if settings.augment.active and job.split.raw(np.arange(1)).ndim != 4:
        raise UsageError(
            "augmentation needs images, these samples are none", where=job.label, fix="leave `augment` out"
        )


def plan(job: Job) -> tuple[Fabric, int]:
    """Fabric as settings, network and machine want it, not yet launched, and the threads of each process."""
    from lightning_fabric import Fabric

    quiet_fabric()
    settings = job.settings
    accelerator = _accelerator(settings)
    device = torch.device(accelerator)
    sample = torch.from_numpy(np.ascontiguousarray(job.split.raw(np.arange(1)))).to(device)
    prepared = prepare(sample, job.split.preprocess, settings.augment)
    arithmetic = count_arithmetic(job.module.to(device), prepared)
    precision = choose_precision(settings.precision, device, arithmetic)
    fabric = Fabric(
        accelerator=accelerator,
        devices=settings.devices,
        strategy="auto" if settings.devices == 1 or under_torchrun() else "ddp_spawn",
        precision=_FABRIC_PRECISION[precision],
    )
    share = settings.devices if accelerator == "cpu" else 1
    return fabric, choose_threads(cpu_count() // share, job.batch // settings.devices, arithmetic)


def under_torchrun() -> bool:
    """Whether this is one of several processes that torchrun started."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def _accelerator(settings: Fit) -> str:
    usable = torch.cuda.device_count() >= settings.devices
    return ("cuda" if usable else "cpu") if settings.accelerator == "auto" else settings.accelerator


def quiet_fabric() -> None:
    """Fabric writes to the terminal at level INFO; only `edgeopt.cli` does that here."""
    logger = logging.getLogger("lightning_fabric")
    if logger.level == logging.INFO:
        logger.setLevel(logging.WARNING)
