"""Variants side by side on Ray: on this machine's cores, or on a cluster."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgeopt.errors import UsageError
from edgeopt.machine import cpu_count
from edgeopt.sweep.work import Task, prepare

__all__ = ["has_ray", "prepare_all"]

POLL_S = 0.25
STORE_BYTES = 100_000_000
"""Of Ray's shared memory: nothing goes through it but recipes and sentences."""

Started = Callable[[str], None]
Ended = Callable[[str, float, str], None]


def has_ray() -> bool:
    """Whether Ray can be imported; it is not."""
    from importlib.util import find_spec

    return find_spec("ray") is not None


def prepare_all(
    tasks: Mapping[str, Task], jobs: int | None, address: str | None, started: Started, moved: Started, ended: Ended
) -> None:
    """Make the stages of all, `jobs` at a time (None: one a core, or one a GPU where there are some).

    Tells of each variant's beginning, of its moves some times a second, and of its end. Raises UsageError without Ray,
    or when no cluster answers at `address`.
    """
    ray = _import_ray()
    with _connected(ray, address, jobs):
        at_once, cores, gpus = _shares(ray, jobs, len(tasks))
        work = ray.remote(num_cpus=cores, num_gpus=gpus, max_calls=1, max_retries=0)(prepare)
        waiting, running = dict(tasks), dict[Any, tuple[str, float]]()
        try:
            while waiting or running:
                while waiting and len(running) < at_once:
                    name = next(iter(waiting))
                    running[work.remote(waiting.pop(name), Path.cwd(), cores)] = (name, time.monotonic())
                    started(name)
                done, _ = ray.wait(list(running), timeout=POLL_S)
                for reference in done:
                    name, began = running.pop(reference)
                    ended(name, time.monotonic() - began, _outcome(ray, reference))
                for name, _ in running.values():
                    moved(name)
        except BaseException:
            for reference in running:
                ray.cancel(reference, force=True)
            raise


def _import_ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError as error:
        raise UsageError(
            "variants run side by side on Ray, which is not installed",
            fix="`pip install 'edgeopt[ray]'`, or --jobs 1: one after another",
        ) from error
    return ray


@contextmanager
def _connected(ray: Any, address: str | None, jobs: int | None) -> Iterator[None]:
    """To the cluster at `address`, or to one of this machine's cores that lasts as long as this; where the caller is
    connected, to that."""
    if ray.is_initialized():
        yield
        return
    cores = max(cpu_count(), jobs or 1)
    local = {"num_cpus": cores, "object_store_memory": STORE_BYTES, "include_dashboard": False}
    quiet = {"log_to_driver": False, "configure_logging": False}
    logging.getLogger("ray").setLevel(logging.ERROR)
    try:
        ray.init(address=address or "local", **quiet, **({} if address else local))
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise UsageError(
            f"Ray does not start ({str(error).splitlines()[0]})" if str(error) else "Ray does not start",
            where=f"--address {address}" if address else "",
            fix="start the cluster with `ray start`, give its address, or use --jobs 1",
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def _shares(ray: Any, jobs: int | None, tasks: int) -> tuple[int, int, float]:
    """Variants at once, and cores and GPUs of each."""
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    cores, gpus = (int(sum(machine.get(kind, 0) for machine in machines)) for kind in ("CPU", "GPU"))
    at_once = max(1, min(jobs or gpus or cores, tasks))
    largest = int(max(machine.get("CPU", 0) for machine in machines))
    return at_once, max(1, min(cores // at_once, largest)), min(1.0, gpus / at_once)


def _outcome(ray: Any, reference: Any) -> str:
    try:
        told: str = ray.get(reference)
    except ray.exceptions.RayError as error:
        lines = [line for line in str(error).splitlines() if line.strip()]
        return f"its process died ({type(error).__name__}: {lines[0] if lines else ''})"
    return told
