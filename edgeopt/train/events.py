"""TensorBoard event files, for whoever wants to watch a run: `tensorboard --logdir out/stages`."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from edgeopt.errors import UsageError
from edgeopt.train.settings import Fit

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from edgeopt.train.job import Job

__all__ = ["FOLDER", "Events", "check_events", "open_events"]

FOLDER = "tensorboard"
"""Inside `scratch`; the run's store keeps it with the finished stage."""


class Events:
    """Event files in `folder`; what an earlier process wrote of steps after `done` is hidden."""

    def __init__(self, folder: Path, done: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(folder), purge_step=done + 1 if done else None)

    def write(self, group: str, readings: Mapping[str, float], step: int) -> None:
        """Numbers by name, after so many steps of the whole run."""
        for name, value in readings.items():
            self.writer.add_scalar(f"{group}/{name}", value, step)

    def close(self) -> None:
        """Write what waits."""
        self.writer.close()


def check_events(settings: Fit, scratch: Path | None, where: str) -> None:
    """Raise UsageError where event files are wanted and cannot be written."""
    if settings.tensorboard and find_spec("tensorboard") is None:
        raise UsageError(
            "tensorboard is not installed", where=where, fix="pip install 'edgeopt[tensorboard]', or leave it out"
        )
    if settings.tensorboard and scratch is None:
        raise UsageError("event files need a folder", where=where, fix="give `fit` a scratch folder")


def open_events(job: Job, fabric: Fabric, done: int) -> Events | None:
    """Where they are wanted, in the first process."""
    if not job.settings.tensorboard or job.scratch is None or fabric.global_rank:
        return None
    return Events(job.scratch / FOLDER, done)
