"""The one training loop.

`fit` trains any module on any split towards any objective, on Lightning Fabric: CPU, one GPU or several
processes by the same settings. Where the speed comes from: samples in memory as uint8, augmentation and
normalisation on the batch, channels_last, fused optimizers, bf16 where it pays, nothing read back from the
device between two progress reports.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from edgeopt.data import Split
from edgeopt.progress import SILENT, Progress
from edgeopt.train.average import Average
from edgeopt.train.checkpoint import fingerprint, read_checkpoint, write_checkpoint
from edgeopt.train.feed import open_feed, prepare
from edgeopt.train.job import Job, check_job, plan, under_torchrun
from edgeopt.train.meter import Meter, diverged
from edgeopt.train.objectives import Objective, first_output
from edgeopt.train.settings import Fit

if TYPE_CHECKING:
    from lightning_fabric import Fabric

__all__ = ["CHECKPOINT", "Stopped", "fit", "train"]

CHECKPOINT = "checkpoint.pt"
"""Name of the file in `scratch`."""


class Stopped(KeyboardInterrupt):
    """Ctrl-C during training: the module has the weights of that moment, `history` the epochs that were finished."""

    def __init__(self, history: list[dict[str, Any]]) -> None:
        super().__init__("stopped")
        self.history = history


def fit(
    module: nn.Module,
    split: Split,
    settings: Fit,
    objective: Objective,
    *,
    seed: int,
    progress: Progress = SILENT,
    scratch: Path | None = None,
    label: str = "training",
) -> list[dict[str, Any]]:
    """Train `module` in place and return one entry per epoch.

    An entry has epoch (from 1), loss (mean), accuracy (fraction of 1 on the augmented images, only with
    labels), lr (at the epoch's end), seconds and images_per_second. The module ends on the device it came on,
    in eval mode, with the weights of the last epoch (or their moving average, `settings.ema`).

    The same seed, settings, machine and thread count give the same weights to the bit on CPU. With `scratch`,
    a checkpoint is written there after each epoch, and a later call with the same arguments goes on from it
    and ends with the same weights as an undisturbed run; one of another run, or a damaged one, is ignored.

    Raises UsageError for settings that do not fit the data or the machine, StageFailed for a loss that is not
    finite (with epoch, step, learning rate and what to try), Stopped on Ctrl-C (with several devices
    KeyboardInterrupt, and the module is as it came).
    """
    job = Job(module, split, settings, objective, seed, progress, scratch, label)
    check_job(job)
    home = _device_of(module)
    try:
        fabric, threads = plan(job)
        job = replace(job, threads=threads)
        if settings.devices == 1 or under_torchrun():
            fabric.launch()
            return train(fabric, job)
        from edgeopt.train.launch import launch

        return launch(fabric, job)
    finally:
        module.to(home, memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        module.eval()


def train(fabric: Fabric, job: Job) -> list[dict[str, Any]]:
    """The run of one process, on the device that `fabric` gave it; `fit` says what all of it means."""
    devices = [fabric.device] if fabric.device.type == "cuda" else []
    with _threads(job.threads), torch.random.fork_rng(devices):
        run = _Run(fabric, job)
        run.resume()
        stopped = None
        try:
            for epoch in range(len(run.history), job.settings.epochs):
                run.one_epoch(epoch)
                run.save()
        except KeyboardInterrupt:
            stopped = Stopped(run.history)
        if run.average is not None:
            run.average.copy_to(run.module)
        if stopped is not None:
            raise stopped
    return run.history


class _Run:
    """The state of a run: module, optimizer, moving average, history."""

    def __init__(self, fabric: Fabric, job: Job) -> None:
        self.fabric, self.job = fabric, job
        settings = job.settings
        self.key = _key(job) if job.scratch else ""
        self.feed = open_feed(job.split, fabric.device)
        self.module = _place(job.module, fabric.device)
        if isinstance(job.objective, nn.Module):
            _place(job.objective, fabric.device)
        self.optimizer = settings.optimizer.build(self.module.parameters(), settings.peak_lr, settings.decay)
        self.network, self.stepper = fabric.setup(self.module, self.optimizer)
        self.average = Average(self.module, settings.ema) if settings.ema else None
        self.history: list[dict[str, Any]] = []

    def one_epoch(self, epoch: int) -> None:
        """Train on every batch once and add an entry to the history."""
        torch.manual_seed(_mix(self.job.seed, epoch, self.fabric.global_rank))
        self.network.train()
        meter = Meter(self.job, self.fabric, epoch)
        for step, (samples, labels) in enumerate(self.feed.batches(self._order(epoch))):
            for group in self.optimizer.param_groups:
                group["lr"] = self.job.lr(epoch, step)
            meter.record(*self._step(samples, labels), labels)
        self.history.append(meter.entry())
        self._check_weights(epoch)

    def _step(self, samples: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        """One step of the optimizer; the loss and the outputs, detached."""
        settings = self.job.settings
        x = prepare(samples, self.job.split.preprocess, settings.augment)
        outputs = first_output(self.network(x))
        with self.fabric.autocast():
            loss = self.job.objective(outputs, x, labels)
        self.fabric.backward(loss)
        if settings.clip_norm is not None:
            self.fabric.clip_gradients(
                self.network, self.stepper, max_norm=settings.clip_norm, error_if_nonfinite=False
            )
        self.stepper.step()
        self.stepper.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.update(self.module)
        return loss.detach(), outputs.detach()

    def _order(self, epoch: int) -> np.ndarray:
        """int64 [steps, batch of this process]: a shuffle that depends on seed and epoch alone."""
        job, world = self.job, self.fabric.world_size
        shuffled = np.random.default_rng([job.seed, epoch]).permutation(len(job.split))
        whole = shuffled[: job.steps * job.batch].reshape(job.steps, job.batch)
        return np.ascontiguousarray(whole[:, self.fabric.global_rank :: world])

    def _check_weights(self, epoch: int) -> None:
        """A loss can be finite for the last time, and the step after it ruin the weights."""
        for name, tensor in self.module.state_dict().items():
            if not tensor.isfinite().all():
                raise diverged(self.job, f"{name} is not finite", epoch, self.job.steps - 1)

    def resume(self) -> None:
        """Take over the checkpoint of an earlier attempt, if there is one, and start the progress display."""
        job = self.job
        state, why = read_checkpoint(job.scratch / CHECKPOINT, self.key) if job.scratch else (None, "")
        if why:
            job.progress.warn(f"{why}: training starts from the beginning")
        if state is not None:
            self._restore(state)
        job.progress.start(job.label, job.settings.epochs * job.steps)
        if self.history:
            job.progress.advance(len(self.history) * job.steps, "resumed")

    def _restore(self, state: dict[str, Any]) -> None:
        self.module.load_state_dict(state["module"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.fabric.strategy.precision.load_state_dict(state["precision"])
        if self.average is not None:
            self.average.load(state["average"])
        self.history = list(state["history"])

    def save(self) -> None:
        """Write the checkpoint (one process only)."""
        if self.job.scratch is None or self.fabric.global_rank:
            return
        state = {
            "module": self.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "precision": self.fabric.strategy.precision.state_dict(),
            "average": None if self.average is None else self.average.state,
            "history": self.history,
        }
        write_checkpoint(self.job.scratch / CHECKPOINT, self.key, state)


def _key(job: Job) -> str:
    """What a checkpoint belongs to: settings, seed, data size, first weights, the objective's weights."""
    target = fingerprint(job.objective) if isinstance(job.objective, nn.Module) else ""
    parts = [job.settings.digest(), str(job.seed), str(len(job.split)), fingerprint(job.module), target]
    return ":".join(parts)


def _place(module: nn.Module, device: torch.device) -> nn.Module:
    """The module on `device` with its kernels in channels_last, which is faster for every network measured."""
    placed: nn.Module = module.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return placed


def _device_of(module: nn.Module) -> torch.device:
    return next((tensor.device for tensor in module.state_dict().values()), torch.device("cpu"))


def _mix(seed: int, epoch: int, rank: int) -> int:
    """One seed of three numbers, well spread."""
    return int(np.random.SeedSequence([seed, epoch, rank]).generate_state(1, np.uint64)[0] >> 1)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Use `count` torch threads inside, unless OMP_NUM_THREADS says otherwise."""
    before = torch.get_num_threads()
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
