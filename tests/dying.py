"""Trainings that are killed in the middle, in a process of their own."""

import multiprocessing
import os
import signal
from pathlib import Path

import torch
from small import network

from edgeopt.data import Split
from edgeopt.train import Fit, run
from edgeopt.train.fit import fit
from edgeopt.train.objectives import HardLabels

__all__ = ["Dying", "Unlearning", "killed"]


class Dying(HardLabels):
    """Kills its own process, so that nothing is tidied up, after so many training batches."""

    def __init__(self, left):
        super().__init__()
        self.left = left

    def forward(self, outputs, x, labels):
        self.left -= torch.is_grad_enabled()
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(outputs, x, labels)


class Unlearning(Dying):
    """Gets worse with every step."""

    def forward(self, outputs, x, labels):
        loss = super().forward(outputs, x, labels)
        return -loss if torch.is_grad_enabled() else loss


def killed(split: Split, settings: Fit, scratch: Path, left: int, objective: type[Dying] = Dying) -> None:
    """Train until it dies, saving as often as this process would."""
    # not a fork of this process: torch refuses gradients in one where threads have computed gradients before
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    process = context.Process(target=_train, args=(split, settings, scratch, objective(left), run.SAVE_EVERY_S))
    process.start()
    process.join(300)
    assert process.exitcode == -signal.SIGKILL


def _train(split: Split, settings: Fit, scratch: Path, objective: Dying, every: float) -> None:
    run.SAVE_EVERY_S = every
    fit(network(), split, settings, objective, seed=5, scratch=scratch)
