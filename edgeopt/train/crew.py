"""One command under torchrun: process 0 runs it, the others wait for its trainings and take part in them.

Between its trainings a recipe searches, measures and writes files. Were all processes to do that, they would write into
one folder, and where a stopwatch decides they would decide differently. So a training is sent to the others as it
stands: network, samples, settings. A library user who calls `fit` in every process himself needs none of this.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from edgeopt.errors import EdgeoptError, StageFailed
from edgeopt.progress import SILENT

if TYPE_CHECKING:
    from edgeopt.train.job import Job

__all__ = ["Crew", "crew", "leading", "serve", "torchrun_shape", "under_torchrun", "waits"]

PATIENCE = timedelta(days=30)
"""Process 0 may quantize for hours between two trainings."""

_crew: Crew | None = None


def under_torchrun() -> bool:
    """Whether this is one of several processes that torchrun started."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def torchrun_shape() -> tuple[int, int]:
    """(processes of each machine, machines) that torchrun started."""
    here, everywhere = int(os.environ["LOCAL_WORLD_SIZE"]), int(os.environ["WORLD_SIZE"])
    return here, everywhere // here


def waits() -> bool:
    """Whether this process is to `serve`: torchrun started it, and it is not the first."""
    return under_torchrun() and os.environ["RANK"] != "0"


def crew() -> Crew | None:
    """The others, inside `leading`; None where there are none."""
    return _crew


class Crew:
    """All processes of torchrun, and the line on which process 0 tells the others what to train."""

    def __init__(self) -> None:
        import torch
        from torch import distributed

        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        if not distributed.is_initialized():
            distributed.init_process_group(backend)
        self.line: Any = distributed.new_group(backend="gloo", timeout=PATIENCE)
        self.intact = True

    def tell(self, job: Job | None) -> None:
        """Have the others train too; None: there is no more. Raises StageFailed where they are lost."""
        if not self.intact:
            raise StageFailed("an earlier training ended in an error, and the other processes with it")
        self._broadcast([None if job is None else replace(job, progress=SILENT)])

    def hear(self) -> Job | None:
        """The next training, or None when there is no more."""
        message: list[Job | None] = [None]
        self._broadcast(message)
        return message[0]

    def _broadcast(self, message: list[Job | None]) -> None:
        import torch
        from torch import distributed

        distributed.broadcast_object_list(message, src=0, group=self.line, device=torch.device("cpu"))


@contextmanager
def leading() -> Iterator[None]:
    """Process 0 of torchrun: inside, every `fit` is shared with the others. Without torchrun nothing happens."""
    global _crew
    if not under_torchrun() or _crew is not None:
        yield
        return
    _crew = Crew()
    try:
        yield
    finally:
        if _crew.intact:
            _crew.tell(None)
        _crew = None
        _disband()


def serve() -> None:
    """The other processes of torchrun: take part in every training until process 0 has no more.

    Raises EdgeoptError when a training fails, StageFailed when process 0 is gone.
    """
    from edgeopt.train.fit import train
    from edgeopt.train.job import plan

    try:
        own = Crew()
        while (job := own.hear()) is not None:
            fabric, threads = plan(job)
            fabric.launch()
            train(fabric, replace(job, threads=threads))
        _disband()
    except EdgeoptError:
        raise
    except RuntimeError as error:  # gloo's and NCCL's, when a process at the other end has died
        line = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise StageFailed(f"the other processes are gone ({line})", where=f"process {os.environ['RANK']}") from error


def _disband() -> None:
    from torch import distributed

    if distributed.is_initialized():
        distributed.destroy_process_group()
