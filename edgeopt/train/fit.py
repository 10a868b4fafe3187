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

import torch
from torch import nn

from edgeopt.data import Split
from edgeopt.model.torch_ops.shared import shared_statistics
from edgeopt.progress import SILENT, Progress
from edgeopt.train.job import Job, check_job, plan
from edgeopt.train.objectives import Objective
from edgeopt.train.run import Run
from edgeopt.train.settings import Fit
from edgeopt.train.validation import hold_out

if TYPE_CHECKING:
    from lightning_fabric import Fabric

__all__ = ["Stopped", "fit", "train"]


class Stopped(KeyboardInterrupt):
    """Ctrl-C during training: `history` has the epochs that were finished.

    The module has the weights of that moment (their average with `ema`, those of the best epoch with `keep: best`).
    """

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
    views: int | None = None,
) -> list[dict[str, Any]]:
    """Train `module` in place and return one entry per epoch.

    An entry has epoch (from 1), loss (mean), accuracy (fraction of 1 on the augmented images, only with
    class numbers), lr (at the epoch's end), seconds and images_per_second; with `settings.validation` also
    validation_loss and validation_accuracy on the samples of `split` that are held out. The module ends on the device
    it came on, in eval mode, with the weights of the last epoch (or their moving average, `settings.ema`), or with
    those of the best epoch (`settings.keep`). It ends early by `settings.patience`.

    The same seed, settings, machine and thread count give the same weights to the bit on CPU. With `scratch`,
    a checkpoint is written there after each epoch and every two minutes, and a later call with the same arguments goes
    on from it and ends with the same weights as an undisturbed run; one of another run, or a damaged one, is ignored.

    With `views` V, epoch e repeats order and augmentation of epoch e mod V, for an objective that remembers. What the
    objective itself learns (`own_parameters`) is trained and kept with the network.

    Raises UsageError for settings that do not fit the data or the machine, StageFailed for a loss that is not
    finite (with epoch, step, learning rate and what to try), Stopped on Ctrl-C (with several devices
    KeyboardInterrupt, and the module is as it came).
    """
    held = hold_out(split, settings.validation, seed)
    job = Job(module, split, settings, objective, seed, progress, scratch, label, views=views, held=held)
    check_job(job)
    home = _device_of(module)
    try:
        fabric, threads = plan(job)
        job = replace(job, threads=threads)
        if settings.processes == 1:
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
    together = fabric.world_size if job.settings.sync_batchnorm else 1
    with _threads(job.threads), torch.random.fork_rng(devices), shared_statistics(together):
        run = Run(fabric, job)
        try:
            return _all_epochs(run)
        finally:
            run.close()


def _all_epochs(run: Run) -> list[dict[str, Any]]:
    run.resume()
    stopped = None
    try:
        while not run.finished:
            run.one_epoch()
    except KeyboardInterrupt:
        stopped = Stopped(run.history)
    if stopped is not None and run.fabric.world_size > 1:
        raise KeyboardInterrupt  # each process may have stopped at another step: nothing to hand back
    run.finish()
    run.hand_back()
    if stopped is not None:
        raise stopped
    return run.history


def _device_of(module: nn.Module) -> torch.device:
    return next((tensor.device for tensor in module.state_dict().values()), torch.device("cpu"))


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
