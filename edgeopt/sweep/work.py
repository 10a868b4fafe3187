"""What is done for one variant in a process of its own: its stages alone, or all of it.

Its folder is that of an ordinary run, but that `stages` is a link to one folder for all variants: a stage that several
of them need, such as the training before a varied quantization, is made once.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from edgeopt.errors import EdgeoptError
from edgeopt.recipe import Recipe
from edgeopt.sweep.show import Telling, forget_status

__all__ = ["SHARED", "Task", "finish", "prepare"]

SHARED = "stages"
PATIENCE_S = 60
"""For a process of an earlier attempt to end, after its sweep was killed."""
LIBRARIES = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True)
class Task:
    """A variant, as another process needs to know it."""

    recipe: Recipe
    folder: Path
    command: str
    """The `edgeopt run` that does the same."""


def prepare(task: Task, where: Path, cores: int) -> str:
    """The stages of a variant, on `cores` cores, in folder `where`; why it failed, or nothing. Nothing is measured."""
    _keep_to(cores)

    def work(telling: Telling) -> None:
        from torch import set_num_threads

        from edgeopt import pipeline

        set_num_threads(cores)
        pipeline.prepare(task.recipe, task.folder, progress=telling)

    try:
        os.chdir(where)
    except OSError as error:
        return f"{where}: {error.strerror}; a cluster's machines have to see the same folders under the same paths"
    return _told(task, work)


def finish(task: Task) -> str:
    """All of a variant, reusing the stages that are there; why it failed, or nothing."""

    def work(telling: Telling) -> None:
        from edgeopt import pipeline

        pipeline.run(task.recipe, task.folder, progress=telling, command=task.command)

    return _told(task, work)


def _told(task: Task, work: Callable[[Telling], None]) -> str:
    """One sentence instead of an exception; the log has the rest."""
    try:
        share_stages(task.folder)
        telling = Telling(task.folder)
        try:
            with FileLock(task.folder / ".lock", timeout=PATIENCE_S):
                pass
            work(telling)
        except Exception as error:
            telling.log(traceback.format_exc() if not isinstance(error, EdgeoptError) else f"failed: {error}")
            raise
    except EdgeoptError as error:
        return str(error)
    except Exception as error:
        message = " ".join(str(error).split())[:300]
        return f"{type(error).__name__}: {message} ({task.folder / 'log.txt'})"
    finally:
        forget_status(task.folder)
    return ""


def share_stages(folder: Path) -> None:
    """Make the variant's folder, with `stages` linked to the one that all variants of the sweep share."""
    shared, link = folder.parent / SHARED, folder / SHARED
    shared.mkdir(parents=True, exist_ok=True)
    folder.mkdir(exist_ok=True)
    if link.is_symlink() or link.exists():  # of an ordinary run: it keeps its own
        return
    try:
        link.symlink_to(Path("..") / SHARED, target_is_directory=True)
    except OSError:  # a file system without links: each variant makes all its stages
        return


def _keep_to(cores: int) -> None:
    """Have everything in this process use so many cores. Before numpy and torch load, or they do not ask."""
    os.environ["EDGEOPT_CORES"] = str(cores)
    os.environ.pop("OMP_NUM_THREADS", None)  # Ray's; training chooses, of these cores
    for variable in LIBRARIES:
        os.environ.setdefault(variable, str(cores))
