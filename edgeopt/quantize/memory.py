"""How much memory an observation takes, told before it starts, and the batch that keeps it under a limit.

What a process holds while it observes, besides what it held before:
- the network in onnxruntime: at its peak, while the session is made, the weights exist four times (serialized, parsed,
  as tensors, packed for the kernels);
- for each batch that runs, the activations alive at the worst moment (`edgeopt.model.memory`), times RUN_FACTOR:
  a tensor that is observed exists in the layout of the kernels and in the one of the file, and onnxruntime takes
  memory in rounded pieces;
- the batches that are read ahead, the samples that wait to be counted, and the histograms.

The number of images is not among them.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir

from edgeopt.errors import UsageError
from edgeopt.model.memory import constant_values, lifetimes
from edgeopt.model.model import Model
from edgeopt.model.providers import CPU
from edgeopt.quantize.histogram import HALF
from edgeopt.quantize.observe import COUNTED_AT_ONCE, known_dims, suggest_batch, workers_for
from edgeopt.quantize.probes import SAMPLED, Dims
from edgeopt.quantize.samples import Samples
from edgeopt.units import format_bytes

__all__ = ["MemoryPlan", "peak_rss_bytes", "plan_memory", "predict_memory", "rss_bytes"]

WEIGHT_COPIES = 4
RUN_FACTOR = 2.5
"""Measured on mobilenet_v2 and resnet50 at 224 px, batches of 1 to 8: 1.5 to 2.6."""
SESSION_BYTES = 25_000_000
"""onnxruntime's own, whatever the network."""
READ_AHEAD = 3
"""Input batches in memory besides those that run: one waits, one is handed over, one is being read."""


@dataclass(frozen=True)
class MemoryPlan:
    """How the observation will be run, and the resident memory of the process at its peak, bytes."""

    batch_size: int
    workers: int
    """Batches that run at the same time."""
    predicted_bytes: int


def plan_memory(
    model: Model,
    tensors: Sequence[str],
    samples: Samples,
    *,
    counts: bool,
    batch_size: int | None = None,
    max_memory: int | None = None,
    providers: Sequence[str] = CPU,
) -> MemoryPlan:
    """A batch size (at most `batch_size`, where given) with which the process stays within `max_memory` bytes.

    Fewer batches at a time come first, smaller ones next; what is seen is the same. Raises UsageError naming the
    memory that would do where even one sample at a time does not fit.
    """
    wanted = batch_size or suggest_batch(model, tensors, providers)
    workers = workers_for(providers, -(-len(samples) // wanted))
    dims = known_dims(model, next(samples.batches(1))) if len(samples) else {}
    held = rss_bytes()
    choices = [(wanted, n) for n in range(workers, 0, -1)]
    choices += [(size, 1) for size in _halves(wanted)]
    for size, running in choices:
        needed = predict_memory(model, tensors, size, counts=counts, workers=running, dims=dims)
        predicted = max(held + needed, peak_rss_bytes())
        if max_memory is None or held + needed <= max_memory:
            return MemoryPlan(size, running, predicted)
    raise UsageError(
        f"one sample at a time takes {format_bytes(held + needed)} of memory, over the limit of "
        f"{format_bytes(max_memory or 0)}",
        where="max_memory",
        fix=f"allow at least {format_bytes(held + needed)}",
    )


def predict_memory(
    model: Model,
    tensors: Sequence[str],
    batch_size: int,
    *,
    counts: bool = True,
    workers: int = 1,
    dims: Mapping[str, Dims] | None = None,
) -> int:
    """Bytes that observing `tensors` adds to the process, `workers` batches of `batch_size` running at a time.

    `dims`: dims of inner values that the model leaves open, see `known_dims`.
    """
    weights = sum(array.nbytes for array in model.weights().values())
    rows = 1 if _fixed_batch(model) else batch_size
    inputs = sum(int(np.prod([d for d in i.shape if isinstance(d, int)])) * i.dtype.itemsize for i in model.inputs)
    waiting = (COUNTED_AT_ONCE + batch_size) * SAMPLED * 4 if counts else 0
    return (
        SESSION_BYTES
        + WEIGHT_COPIES * weights
        + round(workers * rows * RUN_FACTOR * _live_bytes(model, dims or {}))
        + (workers + READ_AHEAD) * rows * inputs
        + len(tensors) * (waiting + 2 * HALF * 8)
    )


def rss_bytes() -> int:
    """Resident memory of this process now; its peak where the system does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return peak_rss_bytes()
    import resource

    return pages * resource.getpagesize()


def peak_rss_bytes() -> int:
    """Largest resident memory of this process so far; 0 where the system does not tell."""
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _live_bytes(model: Model, dims: Mapping[str, Dims]) -> int:
    """Activations alive at the worst moment, for one sample (or one batch, where the model fixes it)."""
    shaped = model.copy()
    graph = shaped.graph.graph
    for value in (v for node in graph for v in node.outputs):
        if dims.get(value.name or ""):
            value.shape = ir.Shape(dims[value.name or ""])
    constants = constant_values(graph)
    nodes = [node for node in graph if not constants.issuperset(node.outputs)]
    return max(lifetimes(nodes, graph, constants).live_bytes, default=0)


def _fixed_batch(model: Model) -> bool:
    return all(info.shape and isinstance(info.shape[0], int) for info in model.inputs)


def _halves(size: int) -> list[int]:
    """size/2, size/4 ... 1."""
    halves = []
    while size > 1:
        size //= 2
        halves.append(size)
    return halves
