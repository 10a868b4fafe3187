"""Losses and hits of one epoch: kept on the device, read back a few times a second."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from edgeopt.errors import StageFailed
from edgeopt.train.job import Job

if TYPE_CHECKING:
    from lightning_fabric import Fabric

__all__ = ["Meter", "diverged"]

REPORT_EVERY_S = 0.2


class Meter:
    """Takes in every step of an epoch; `report` tells the progress display and finds a loss that is not finite."""

    def __init__(self, job: Job, fabric: Fabric, epoch: int) -> None:
        self.job, self.fabric, self.epoch = job, fabric, epoch
        self.losses = torch.zeros(job.steps, device=fabric.device)
        self.hits = torch.zeros(job.steps, device=fabric.device)
        self.has_hits = False
        self.step = self.reported = 0
        self.began = time.perf_counter()
        self.due = self.began + REPORT_EVERY_S

    def record(self, loss: Tensor, outputs: Tensor, labels: Tensor | None) -> None:
        """Take in one step. Raises StageFailed, some steps late, for a loss that is not finite."""
        self.losses[self.step] = loss
        if labels is not None and outputs.ndim == 2:
            self.has_hits = True
            self.hits[self.step] = (outputs.argmax(1) == labels).float().mean()
        self.step += 1
        if time.perf_counter() >= self.due:
            self.report()

    def report(self) -> None:
        """Say how far it is. Raises StageFailed for the first loss that was not finite."""
        fresh = slice(self.reported, self.step)
        losses = self.losses[fresh].cpu()
        bad = (~losses.isfinite()).nonzero()
        if len(bad):
            raise diverged(self.job, "the loss is not finite", self.epoch, self.reported + int(bad[0]))
        if len(losses):
            accuracy = f" acc {self.hits[fresh].mean():.3f}" if self.has_hits else ""
            self.job.progress.advance(len(losses), f"loss {losses.mean():.3f}{accuracy}")
        self.reported = self.step
        self.due = time.perf_counter() + REPORT_EVERY_S

    def entry(self) -> dict[str, Any]:
        """The epoch's line of the history, over all processes."""
        self.report()
        seconds = time.perf_counter() - self.began
        means = torch.stack([self.losses.mean(), self.hits.mean()])
        loss, accuracy = self.fabric.all_reduce(means, reduce_op="mean").tolist()
        return {
            "epoch": self.epoch + 1,
            "loss": loss,
            **({"accuracy": accuracy} if self.has_hits else {}),
            "lr": self.job.lr(self.epoch, self.job.steps - 1),
            "seconds": seconds,
            "images_per_second": self.job.steps * self.job.batch / seconds,
        }


def diverged(job: Job, found: str, epoch: int, step: int) -> StageFailed:
    """The error for a number that is not finite; `epoch` and `step` count from 0."""
    return StageFailed(
        f"{found} at epoch {epoch + 1}, step {step + 1} of {job.steps} (learning rate {job.lr(epoch, step):.3g})",
        where=job.label,
        fix=f"try lr {job.settings.peak_lr / 4:.2g}, clip_norm 1, a longer warm-up or precision fp32",
    )
