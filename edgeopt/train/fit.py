"""The one training loop.

`fit` trains any module on any split towards any objective, on Lightning Fabric: CPU, one GPU or several
processes by the same settings. Where the speed comes from: samples in memory as uint8, augmentation and
normalisation on the batch, channels_last, fused optimizers, bf16 where it pays, nothing read back from the
device between two progress reports.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from edgeopt.data import Split
from edgeopt.errors import StageFailed, UsageError
from edgeopt.model.runtime import cpu_count
from edgeopt.progress import SILENT, Progress
from edgeopt.train.average import Average
from edgeopt.train.checkpoint import fingerprint, read_checkpoint, write_checkpoint
from edgeopt.train.feed import Feed, open_feed, prepare
from edgeopt.train.objectives import Objective, first_output
from edgeopt.train.precision import choose_precision, choose_threads, count_arithmetic
from edgeopt.train.settings import Fit

if TYPE_CHECKING:
    from lightning_fabric import Fabric

__all__ = ["fit"]

CHECKPOINT = "checkpoint.pt"
REPORT_EVERY_S = 0.2
_FABRIC_PRECISION = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}


@dataclass(frozen=True)
class Job:
    """What is trained, on what, how: the arguments of `fit`."""

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
    finite (with epoch, step, learning rate and what to try). KeyboardInterrupt passes through.
    """
    job = Job(module, split, settings, objective, seed, progress, scratch, label)
    _check(job)
    fabric, threads = _plan(job)
    job = replace(job, threads=threads)
    if settings.devices == 1 or _under_torchrun():
        fabric.launch()
        return train(fabric, job)
    from edgeopt.train.launch import launch

    return launch(fabric, job)


def train(fabric: Fabric, job: Job) -> list[dict[str, Any]]:
    """The run of one process; `fit` for all that it means."""
    home = next(iter(job.module.state_dict().values())).device
    devices = [fabric.device] if fabric.device.type == "cuda" else []
    with _threads(job.threads), torch.random.fork_rng(devices):
        run = _Run(fabric, job)
        run.resume()
        for epoch in range(len(run.history), job.settings.epochs):
            run.one_epoch(epoch)
            run.save()
        run.finish(home)
    return run.history


class _Run:
    """The state of a run: module, optimizer, moving average, history."""

    def __init__(self, fabric: Fabric, job: Job) -> None:
        self.fabric, self.job = fabric, job
        settings = job.settings
        self.key = _key(job) if job.scratch else ""
        self.feed: Feed = open_feed(job.split, fabric.device)
        self.module = job.module.to(fabric.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        if isinstance(job.objective, nn.Module):
            job.objective.to(fabric.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = settings.optimizer.build(self.module.parameters(), settings.peak_lr, settings.decay)
        self.network, self.stepper = fabric.setup(self.module, self.optimizer)
        self.average = Average(self.module, settings.ema) if settings.ema else None
        self.history: list[dict[str, Any]] = []

    def one_epoch(self, epoch: int) -> None:
        """Train on every batch once and add an entry to the history."""
        began = time.perf_counter()
        torch.manual_seed(_mix(self.job.seed, epoch, self.fabric.global_rank))
        self.network.train()
        order = self._order(epoch)
        meter = _Meter(self, epoch)
        for step, (samples, labels) in enumerate(self.feed.batches(order)):
            self.lr = self._lr(epoch * self.job.steps + step)
            for group in self.optimizer.param_groups:
                group["lr"] = self.lr
            meter.record(*self._step(samples, labels), labels)
        meter.report()
        self._check_weights()
        self.history.append(meter.entry(time.perf_counter() - began))

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

    def _lr(self, step: int) -> float:
        """The learning rate of a step of the run."""
        settings = self.job.settings
        return settings.peak_lr * settings.schedule.factor(step / (self.job.steps * settings.epochs))

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

    def finish(self, home: torch.device) -> None:
        """Hand the module back: averaged if asked for, in eval mode, in its first layout and place."""
        if self.average is not None:
            self.average.copy_to(self.module)
        self.module.to(home, memory_format=torch.contiguous_format)
        self.module.eval()

    def _check_weights(self) -> None:
        """A loss can be finite for the last time: then the step after it ruined the weights."""
        for name, tensor in self.module.state_dict().items():
            if not tensor.isfinite().all():
                raise self.diverged(f"{name} is not finite", len(self.history), self.job.steps - 1)

    def diverged(self, found: str, epoch: int, step: int) -> StageFailed:
        """The error for a number that is not finite; `epoch` and `step` count from 0."""
        lr = self._lr(epoch * self.job.steps + step)
        return StageFailed(
            f"{found} at epoch {epoch + 1}, step {step + 1} of {self.job.steps} (learning rate {lr:.3g})",
            where=self.job.label,
            fix=f"try lr {self.job.settings.peak_lr / 4:.2g}, clip_norm 1, a longer warm-up or precision fp32",
        )


class _Meter:
    """Losses and hits of one epoch, kept on the device and read back a few times a second."""

    def __init__(self, run: _Run, epoch: int) -> None:
        self.run, self.epoch = run, epoch
        steps = run.job.steps
        self.losses = torch.zeros(steps, device=run.fabric.device)
        self.hits = torch.zeros(steps, device=run.fabric.device)
        self.counts = False
        self.step = self.reported = 0
        self.due = time.perf_counter() + REPORT_EVERY_S

    def record(self, loss: Tensor, outputs: Tensor, labels: Tensor | None) -> None:
        """Take in one step."""
        self.losses[self.step] = loss
        if labels is not None and outputs.ndim == 2:
            self.counts = True
            self.hits[self.step] = (outputs.argmax(1) == labels).float().mean()
        self.step += 1
        if time.perf_counter() >= self.due:
            self.report()

    def report(self) -> None:
        """Tell the progress display, and stop if a loss was not finite."""
        fresh = slice(self.reported, self.step)
        losses = self.losses[fresh].cpu()
        bad = (~losses.isfinite()).nonzero()
        if len(bad):
            raise self.run.diverged("the loss is not finite", self.epoch, self.reported + int(bad[0]))
        if len(losses):
            accuracy = f" acc {self.hits[fresh].mean():.3f}" if self.counts else ""
            self.run.job.progress.advance(len(losses), f"loss {losses.mean():.3f}{accuracy}")
        self.reported = self.step
        self.due = time.perf_counter() + REPORT_EVERY_S

    def entry(self, seconds: float) -> dict[str, Any]:
        """The epoch's line of the history, over all processes."""
        fabric, job = self.run.fabric, self.run.job
        means = torch.stack([self.losses.mean(), self.hits.mean()])
        loss, accuracy = fabric.all_reduce(means, reduce_op="mean").tolist()
        entry = {"epoch": self.epoch + 1, "loss": loss, "lr": self.run.lr, "seconds": seconds}
        entry |= {"accuracy": accuracy} if self.counts else {}
        return entry | {"images_per_second": job.steps * job.batch / seconds}


def _check(job: Job) -> None:
    """Raise UsageError where settings, data and machine do not go together."""
    settings = job.settings
    if not len(job.split):
        raise UsageError("there are no training images", where=job.label)
    if job.batch % settings.devices:
        raise UsageError(f"a batch of {job.batch} does not divide over {settings.devices} devices", where=job.label)
    if settings.accelerator == "cuda" and torch.cuda.device_count() < settings.devices:
        raise UsageError(
            f"{settings.devices} CUDA device(s) wanted, {torch.cuda.device_count()} found",
            where=job.label,
            fix="use accelerator auto or cpu",
        )
    if job.batch % settings.devices:
        raise UsageError(
            f"a batch of {job.batch} does not divide over {settings.devices} devices", where=job.label
        )
    if settings.precision == "fp16" and _accelerator(settings) == "cpu":
        raise UsageError("precision fp16 needs a GPU", where=job.label, fix="use precision auto or bf16")
    if settings.augment.active and job.split.raw(np.arange(1)).ndim != 4:
        raise UsageError("augmentation needs images, these samples are none", fix="leave `augment` out")


def _accelerator(settings: Fit) -> str:
    usable = torch.cuda.device_count() >= settings.devices
    return ("cuda" if usable else "cpu") if settings.accelerator == "auto" else settings.accelerator


def _plan(job: Job) -> tuple[Fabric, int]:
    """Fabric as settings, network and machine want it, not yet launched, and the threads of each process."""
    from lightning_fabric import Fabric

    _quiet_fabric()
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
        strategy="auto" if settings.devices == 1 or _under_torchrun() else "ddp_spawn",
        precision=_FABRIC_PRECISION[precision],
    )
    share = settings.devices if accelerator == "cpu" else 1
    return fabric, choose_threads(cpu_count() // share, job.batch // settings.devices, arithmetic)


def _quiet_fabric() -> None:
    """Fabric writes to the terminal at level INFO; only `edgeopt.cli` does that here."""
    logger = logging.getLogger("lightning_fabric")
    if logger.level == logging.INFO:
        logger.setLevel(logging.WARNING)


def _under_torchrun() -> bool:
    return "TORCHELASTIC_RUN_ID" in os.environ


def _key(job: Job) -> str:
    """What a checkpoint belongs to: settings, seed, data size, first weights, the objective's weights."""
    target = fingerprint(job.objective) if isinstance(job.objective, nn.Module) else ""
    parts = [job.settings.digest(), str(job.seed), str(len(job.split)), fingerprint(job.module), target]
    return ":".join(parts)


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
