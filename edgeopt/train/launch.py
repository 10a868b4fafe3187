"""Several processes from one call.

Fabric spawns them, and the first one leaves weights and history in a file. Under torchrun they are there: those of a
command wait to be told (`edgeopt.train.crew`), those of a user's script call `fit` themselves.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning_fabric import Fabric

from edgeopt.errors import EdgeoptError, StageFailed
from edgeopt.progress import SILENT, Progress
from edgeopt.train.crew import crew, under_torchrun
from edgeopt.train.job import quiet_fabric

if TYPE_CHECKING:
    from multiprocessing.queues import SimpleQueue

    from edgeopt.train.job import Job

__all__ = ["launch"]

quiet_fabric()  # here, because a spawned process imports this module before Fabric speaks in it


def launch(fabric: Fabric, job: Job) -> list[dict[str, Any]]:
    """Run `job` in the processes of `fabric` (not yet launched); see `edgeopt.train.fit.fit`."""
    return _with_torchrun(fabric, job) if under_torchrun() else _spawned(fabric, job)


def _with_torchrun(fabric: Fabric, job: Job) -> list[dict[str, Any]]:
    from edgeopt.train.fit import train

    others = crew()
    if others is not None:
        others.tell(job)
    try:
        fabric.launch()
        return train(fabric, job)
    except BaseException:
        if others is not None:
            others.intact = False
        raise


def _spawned(fabric: Fabric, job: Job) -> list[dict[str, Any]]:
    messages: SimpleQueue[tuple[str, tuple[Any, ...]]] = torch.multiprocessing.get_context("spawn").SimpleQueue()
    listener = _Listener(messages, job.progress)
    listener.start()
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.pt"
        try:
            fabric.launch(_Work(replace(job, progress=SILENT), messages, result))
        except Exception as error:
            listener.finish()
            raise listener.error or _failed(job, error) from error
        listener.finish()
        outcome = torch.load(result, weights_only=True)
    job.module.load_state_dict(outcome["module"])
    history: list[dict[str, Any]] = outcome["history"]
    return history


@dataclass
class _Work:
    """What each process does. (As an object: Fabric would look into the arguments of a function.)"""

    job: Job
    messages: SimpleQueue[Any]
    result: Path

    def __call__(self, fabric: Fabric) -> None:
        from edgeopt.train.fit import train

        progress = SILENT if fabric.global_rank else _Teller(self.messages)
        # tensors arrive in memory that all processes share: each needs weights of its own
        module, objective = deepcopy(self.job.module), deepcopy(self.job.objective)
        job = replace(self.job, module=module, objective=objective, progress=progress)
        try:
            history = train(fabric, job)
        except EdgeoptError as error:
            self.messages.put(("error", (type(error), error.found, error.where, error.fix)))
            raise
        if fabric.global_rank == 0:
            torch.save({"module": module.state_dict(), "history": history}, self.result)


class _Teller(Progress):
    """A worker's end of the progress display."""

    def __init__(self, messages: SimpleQueue[Any]) -> None:
        self.messages = messages

    def start(self, label: str, total: int) -> None:
        self.messages.put(("start", (label, total)))

    def advance(self, steps: int = 1, metric: str = "") -> None:
        self.messages.put(("advance", (steps, metric)))

    def warn(self, message: str) -> None:
        self.messages.put(("warn", (message,)))


class _Listener(threading.Thread):
    """The caller's end: passes on progress, and keeps the first error."""

    def __init__(self, messages: SimpleQueue[Any], progress: Progress) -> None:
        super().__init__(daemon=True)
        self.messages, self.progress = messages, progress
        self.error: EdgeoptError | None = None

    def run(self) -> None:
        tell: dict[str, Callable[..., None]] = {
            "start": self.progress.start,
            "advance": self.progress.advance,
            "warn": self.progress.warn,
        }
        while (message := self.messages.get()) is not None:
            verb, arguments = message
            if verb != "error":
                tell[verb](*arguments)
            elif self.error is None:
                kind, found, where, fix = arguments
                self.error = kind(found, where=where, fix=fix)

    def finish(self) -> None:
        """Read what is left, then end."""
        self.messages.put(None)
        self.join()


def _failed(job: Job, error: Exception) -> StageFailed:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return StageFailed(
        f"{job.settings.processes} processes could not train ({lines[-1] if lines else type(error).__name__})",
        where=job.label,
        fix="use devices 1, or start the command with torchrun",
    )
