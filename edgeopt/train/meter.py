"""Losses and hits of one epoch: kept on the device, read back a few times a second."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from edgeopt.errors import StageFailed
from edgeopt.train.events import Events
from edgeopt.train.job import Job

if TYPE_CHECKING:
    from lightning_fabric import Fabric

__all__ = ["Meter", "diverged", "hit_rate"]

REPORT_EVERY_S = 0.2


class Meter:
    """Takes in every step of an epoch; `report` tells the progress display and finds a loss that is not finite."""

    def __init__(self, job: Job, fabric: Fabric, epoch: int, events: Events | None = None) -> None:
        self.job, self.fabric, self.epoch, self.events = job, fabric, epoch, events
        self.losses = torch.zeros(job.steps, device=fabric.device)
        self.hits = torch.zeros(job.steps, device=fabric.device)
        self.has_hits = False
        self.step = self.reported = 0
        self.earlier_s = 0.0
        self.start()

    def start(self) -> None:
        """The epoch begins, or goes on in another process."""
        self.began = time.perf_counter()
        self.due = self.began + REPORT_EVERY_S

    @property
    def seconds(self) -> float:
        """Time spent on the epoch so far."""
        return self.earlier_s + time.perf_counter() - self.began

    @property
    def state(self) -> dict[str, Any]:
        """For the checkpoint. (Of this process: the losses of the others are lost, and they train nothing.)"""
        return {
            "step": self.step,
            "losses": self.losses[: self.step].clone(),
            "hits": self.hits[: self.step].clone() if self.has_hits else None,
            "seconds": self.seconds,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Take over what `state` gave."""
        self.step = self.reported = state["step"]
        self.losses[: self.step] = state["losses"]
        self.has_hits = state["hits"] is not None
        if self.has_hits:
            self.hits[: self.step] = state["hits"]
        self.earlier_s = state["seconds"]

    def record(self, loss: Tensor, hits: Tensor | None) -> None:
        """Take in one step. Raises StageFailed, some steps late, for a loss that is not finite."""
        self.losses[self.step] = loss
        if hits is not None:
            self.has_hits = True
            self.hits[self.step] = hits
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
            readings = {"loss": float(losses.mean())}
            if self.has_hits:
                readings["accuracy"] = float(self.hits[fresh].mean())
            accuracy = f" acc {readings['accuracy']:.3f}" if self.has_hits else ""
            self.job.progress.advance(len(losses), f"loss {readings['loss']:.3f}{accuracy}")
            if self.events is not None:
                readings["lr"] = self.job.lr(self.epoch, self.step - 1)
                self.events.write("step", readings, self.epoch * self.job.steps + self.step)
        self.reported = self.step
        self.due = time.perf_counter() + REPORT_EVERY_S

    def entry(self) -> dict[str, Any]:
        """The epoch's line of the history, over all processes."""
        self.report()
        seconds = self.seconds
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


def hit_rate(outputs: Tensor, labels: Tensor | None) -> Tensor | None:
    """Share of right answers of [n, classes] outputs, against class numbers int64 [n] or shares [n, classes].

    A mixed image is right in the share of its label. None where the labels are something else.
    """
    if labels is None or outputs.ndim != 2:
        return None
    answers = outputs.argmax(1)
    if labels.shape == answers.shape:
        return (answers == labels).float().mean()
    if labels.shape == outputs.shape:
        return labels.gather(1, answers[:, None]).mean()
    return None


def diverged(job: Job, found: str, epoch: int, step: int) -> StageFailed:
    """The error for a number that is not finite; `epoch` and `step` count from 0."""
    return StageFailed(
        f"{found} at epoch {epoch + 1}, step {step + 1} of {job.steps} (learning rate {job.lr(epoch, step):.3g})",
        where=job.label,
        fix=f"try lr {job.settings.peak_lr / 4:.2g}, clip_norm 1, a longer warm-up or precision fp32",
    )
