"""How much memory an observation takes, told before it starts, and the batch that keeps it under a limit.

What a process holds while it observes, besides what it held before:
- the network in onnxruntime: at its peak, while the session is made, the weights exist four times (serialized, parsed,
  as tensors, packed for the kernels);
- for each batch that runs, the activations alive at the worst moment (`edgeopt.model.memory`), times RUN_FACTOR:
  a tensor that is observed exists in the layout of the kernels and in the one of the file, and onnxruntime takes
  memory in rounded pieces;
- the batches that are read ahead, the samples that wait to be counted, and the histograms.

The number of images is not among them. What runs layer by layer (`model/layerwise`) takes a batch of two models and
what of the values put aside stays in memory (`plan_pieces`).
"""

from __future__ import annotations

import math
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir

from edgeopt.errors import UsageError
from edgeopt.model.layerwise.pile import IN_MEMORY
from edgeopt.model.memory import constant_values, lifetimes
from edgeopt.model.model import Model
from edgeopt.model.providers import CPU
from edgeopt.quantize.histogram import HALF
from edgeopt.quantize.observe import COUNTED_AT_ONCE, known_dims, suggest_batch, workers_for
from edgeopt.quantize.probes import SAMPLED, Dims, dims_of, elements
from edgeopt.quantize.samples import Samples
from edgeopt.units import format_bytes

__all__ = [
    "MemoryPlan",
    "Pieces",
    "least_pieces",
    "peak_rss_bytes",
    "plan_memory",
    "plan_pieces",
    "predict_memory",
    "predict_watching",
    "room_bytes",
    "rss_bytes",
]

WEIGHT_COPIES = 4
RUN_FACTOR = 2.5
"""Measured on mobilenet_v2 and resnet50 at 224 px, batches of 1 to 8: 1.5 to 2.6."""
SESSION_BYTES = 25_000_000
"""onnxruntime's own, whatever the network."""
READ_AHEAD = 3
"""Input batches in memory besides those that run: one waits, one is handed over, one is being read."""
PIECES_FACTOR = 10
"""Times the live activations of a batch, where two models run layer by layer: what each reads, runs and returns, and
sums over both."""
PILES = 8
"""Values that cross one place of the two graphs, about."""


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


@dataclass(frozen=True)
class Pieces:
    """How two versions of a model will be run layer by layer, and what that takes beside what the process holds."""

    batch_size: int
    in_memory: int
    """Bytes of each value put aside that touch no disk."""
    predicted_bytes: int


def plan_pieces(model: Model, samples: Samples, batch_size: int, room: float = math.inf) -> Pieces:
    """A batch size, at most `batch_size`, with which running `model` and its Q/DQ version layer by layer, and then each
    of them once as a whole, takes at most `room` bytes; 1 where none does.
    """
    weights = [array.nbytes for array in model.weights().values()]
    live = _live_bytes(model, known_dims(model, next(samples.batches(1))) if len(samples) else {})
    in_memory = min(IN_MEMORY, int(min(room, 2**40) / (8 * PILES)))
    whole = WEIGHT_COPIES * sum(weights) + RUN_FACTOR * live
    found = None
    for size in (batch_size, *_halves(batch_size)):
        layers = 2 * WEIGHT_COPIES * max(weights, default=0) + PILES * in_memory
        layers += PIECES_FACTOR * live * (1 if _fixed_batch(model) else size)
        found = Pieces(size, in_memory, round(SESSION_BYTES + max(whole, layers)))
        if found.predicted_bytes <= room:
            break
    assert found is not None
    return found


def least_pieces(model: Model, samples: Samples) -> int:
    """The least room with which `plan_pieces` finds a size that fits, bytes."""
    return round(plan_pieces(model, samples, 1, 0).predicted_bytes * 8 / 7)  # an eighth of it is for the piles


def predict_watching(model: Model, tensors: Collection[str], samples: Samples, batch_size: int = 1) -> int:
    """Bytes that running the model takes when it hands out `tensors` of a batch all at once."""
    dims = known_dims(model, next(samples.batches(1))) if len(samples) else {}
    seen = (
        dims.get(v.name or "") or dims_of(v) for node in model.graph.graph for v in node.outputs if v.name in tensors
    )
    watched = 4 * sum(elements(one) for one in seen)
    rows = 1 if _fixed_batch(model) else batch_size
    weights = sum(array.nbytes for array in model.weights().values())
    return round(SESSION_BYTES + WEIGHT_COPIES * weights + rows * (RUN_FACTOR * _live_bytes(model, dims) + 2 * watched))


def room_bytes(max_memory: int | None) -> float:
    """What the process may still take under a limit; infinity without one."""
    return math.inf if max_memory is None else max_memory - rss_bytes()


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
    try:  # Linux hands getrusage's peak on to a child process, this one not
        status = Path("/proc/self/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024
    except (OSError, ValueError, IndexError):
        pass
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
