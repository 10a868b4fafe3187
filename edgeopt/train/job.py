"""A training run before it starts: what is asked for, whether that can be done, and with what."""

from __future__ import annotations

import logging
import shlex
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from edgeopt.data import Split
from edgeopt.errors import UsageError
from edgeopt.machine import cpu_count
from edgeopt.progress import Progress
from edgeopt.train.crew import torchrun_shape, under_torchrun
from edgeopt.train.events import check_events
from edgeopt.train.feed import check_augment, prepare
from edgeopt.train.objectives import Objective
from edgeopt.train.precision import choose_precision, choose_threads, count_arithmetic
from edgeopt.train.settings import Fit

if TYPE_CHECKING:
    from lightning_fabric import Fabric
    from lightning_fabric.strategies import Strategy

__all__ = ["Job", "check_job", "plan", "quiet_fabric"]

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
    views: int | None = None
    """Order and draws of an epoch are those of epoch `epoch % views`; None: every epoch has its own."""
    held: np.ndarray = field(default_factory=lambda: np.arange(0))
    """Positions in the split that are not trained on: they tell how well it goes."""

    @property
    def batch(self) -> int:
        """Samples a step, over all devices."""
        return min(self.settings.batch_size, len(self.split) - len(self.held))

    @property
    def steps(self) -> int:
        """Steps an epoch; what does not fill a batch is left out, other samples in each epoch."""
        return (len(self.split) - len(self.held)) // self.batch

    @property
    def training(self) -> np.ndarray:
        """Positions in the split that are trained on."""
        return np.delete(np.arange(len(self.split)), self.held)

    def view(self, epoch: int) -> int:
        """The epoch whose order and draws this one has."""
        return epoch if self.views is None else epoch % self.views

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
    _check_processes(job)
    if settings.precision == "fp16" and _accelerator(settings) == "cpu":
        raise UsageError("precision fp16 needs a GPU", where=job.label, fix="use precision auto or bf16")
    if settings.precision == "fp16" and settings.strategy == "fsdp" and settings.processes > 1:
        raise UsageError("strategy fsdp does not scale losses, as fp16 needs it", where=job.label, fix="use bf16")
    check_augment(job.split, settings.augment, job.label)
    check_events(settings, job.scratch, job.label)


def _check_processes(job: Job) -> None:
    """Raise UsageError where the processes that there are, or can be, are not those of the settings."""
    settings = job.settings
    wanted = (settings.devices, settings.nodes)
    if under_torchrun() and torchrun_shape() != wanted:
        here, machines = torchrun_shape()
        raise UsageError(
            f"torchrun started {here} process(es) on each of {machines} machine(s), and the settings say "
            f"devices {settings.devices}, nodes {settings.nodes}",
            where=job.label,
            fix=f"set devices {here} and nodes {machines}, or leave both out",
        )
    if settings.nodes > 1 and not under_torchrun():
        raise UsageError(
            f"{settings.nodes} machines need a torchrun on each",
            where=job.label,
            fix=f"run there: {_command(settings)}",
        )
    if job.batch % settings.processes:
        raise UsageError(
            f"a batch of {job.batch} does not divide over {settings.processes} devices",
            where=job.label,
            fix="choose a batch_size that is a multiple of devices x nodes",
        )


def _command(settings: Fit) -> str:
    """What starts this very command on every machine."""
    start = f"torchrun --nnodes {settings.nodes} --nproc-per-node {settings.devices}"
    return f"{start} --rdzv-backend c10d --rdzv-endpoint FIRST_MACHINE:29500 -m edgeopt {shlex.join(sys.argv[1:])}"


def plan(job: Job) -> tuple[Fabric, int]:
    """Fabric as settings, network and machine want it, not yet launched, and the threads of each process."""
    from lightning_fabric import Fabric
    from lightning_fabric.plugins.environments import LightningEnvironment, TorchElasticEnvironment

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
        num_nodes=settings.nodes,
        strategy=_strategy(settings),
        precision=_FABRIC_PRECISION[precision],
        # named, because Fabric looks for clusters too: a SLURM job of several tasks may hold this one process
        plugins=[TorchElasticEnvironment() if under_torchrun() else LightningEnvironment()],
    )
    share = settings.devices if accelerator == "cpu" else 1
    return fabric, choose_threads(cpu_count() // share, job.batch // settings.processes, arithmetic)


def _strategy(settings: Fit) -> str | Strategy:
    if settings.processes == 1:
        return "auto"
    if settings.strategy == "fsdp":
        from edgeopt.train.shards import Sharded

        return Sharded(settings.processes)
    return "ddp" if under_torchrun() else "ddp_spawn"


def _accelerator(settings: Fit) -> str:
    usable = torch.cuda.device_count() >= settings.devices
    return ("cuda" if usable else "cpu") if settings.accelerator == "auto" else settings.accelerator


def quiet_fabric() -> None:
    """Fabric writes to the terminal at level INFO; only `edgeopt.cli` does that here."""
    logger = logging.getLogger("lightning_fabric")
    if logger.level == logging.INFO:
        logger.setLevel(logging.WARNING)
