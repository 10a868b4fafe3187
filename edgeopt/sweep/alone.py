"""One variant after another, each in a process of its own: what it loads goes with it, and a crash is its own."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection, wait

from edgeopt.sweep.work import Task, finish

__all__ = ["run_alone"]

POLL_S = 0.25


def run_alone(task: Task, moved: Callable[[], None]) -> str:
    """Carry it out while calling `moved` some times a second; why it failed, or nothing. Ctrl-C ends its process."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(task, sender))
    process.start()
    sender.close()
    try:
        while not receiver.poll(POLL_S):
            moved()
        told: str = receiver.recv()
    except EOFError:
        process.join()
        told = f"its process died (exit code {process.exitcode})"
    except BaseException:
        process.terminate()
        raise
    finally:
        process.join()
        receiver.close()
    return told


def _child(task: Task, sender: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all processes of a terminal; the parent decides
    threading.Thread(target=_die_with_parent, daemon=True).start()
    sender.send(finish(task))


def _die_with_parent() -> None:
    """A sweep that is killed leaves nobody behind who holds its folders."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
