"""One streaming pass over the calibration samples: what values each tensor takes.

The statistics are computed inside the graph (`probes.py`), so memory is that of running the batches at hand, whatever
the number of samples, of tensors and the calibrator. On a CPU each core runs batches of its own on one thread: a
network at batch 1 keeps its activations in the cache and scales by the number of cores, where threads inside one
operator wait for one another. Results are taken in order, so the number of cores leaves no trace.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from edgeopt.errors import StageFailed
from edgeopt.machine import cpu_count
from edgeopt.model.model import Model
from edgeopt.model.providers import CPU
from edgeopt.model.runtime import open_session, run
from edgeopt.progress import SILENT, Progress
from edgeopt.quantize.histogram import Histogram
from edgeopt.quantize.probes import SAMPLED, Dims, Probe, add_probes, dims_of, elements

if TYPE_CHECKING:
    import onnxruntime as ort

__all__ = ["SAMPLED", "Observation", "known_dims", "not_finite", "observe", "suggest_batch", "workers_for"]

BATCH_BYTES = 64 * 2**20
"""Observed activations of one batch; those of a small network fill a batch, a large one goes image by image."""
LARGEST_BATCH = 32
GPU_BATCH = 16
"""Images a GPU is given at once, at least: what it runs at batch 1 leaves most of it idle."""
COUNTED_AT_ONCE = 8
"""Images whose samples wait to be counted together: numpy's calls then cost less than its work."""

Feeds = Mapping[str, np.ndarray]


@dataclass
class Observation:
    """What one pass saw."""

    histograms: dict[str, Histogram]
    images: int = 0
    bytes_seen: int = 0
    """float32 bytes of the observed activations, all images together; none of it was kept."""
    not_finite: dict[str, None] = field(default_factory=dict)
    """Tensors, in the order of the graph, that held a NaN or an infinity: their histograms mean nothing."""


@dataclass(frozen=True)
class _Piece:
    """What one run is fed; the first `images` of its rows count."""

    feeds: Feeds
    images: int


@dataclass(frozen=True)
class _Seen:
    """What came back from one run."""

    found: Feeds
    images: int
    rows: int

    def own(self, name: str) -> np.ndarray:
        """The rows of an output that count, where it has one for each that was fed, or else all of it as rows."""
        array = np.atleast_1d(self.found[name])
        return array[: self.images] if len(array) == self.rows else array

    def extremes(self, probe: Probe) -> tuple[np.ndarray, np.ndarray]:
        """Smallest and largest value of each image; what is known of all together stands for each."""
        lows, highs = self.own(probe.low), self.own(probe.high)
        if len(lows) == self.images:
            return lows, highs
        return np.repeat(lows.min(), self.images), np.repeat(highs.max(), self.images)


def observe(
    model: Model,
    tensors: Sequence[str],
    batches: Iterable[np.ndarray | Feeds],
    *,
    counts: bool,
    total: int = 0,
    progress: Progress = SILENT,
    providers: Sequence[str] = CPU,
    workers: int | None = None,
) -> Observation:
    """Run the model on `batches` and return a Histogram for each of `tensors`.

    A batch is an array [n, ...] for the only input, or such an array for each input by name, any n. `counts` false:
    extremes and their averages only. `total` is the number of images, for the progress display and so that few
    batches use all cores too; `workers` batches run at a time (None: see `workers_for`). `providers`: see
    `edgeopt.model.providers.choose_providers`.
    Raises StageFailed where an output of the model holds a NaN or an infinity, naming the first tensor, in the order of
    the graph, that does.
    """
    feeds = (_by_name(batch, model) for batch in batches)
    first = next(feeds, None)
    result = Observation({tensor: _of_constant(model, tensor, counts) for tensor in tensors})
    if first is None:
        return result
    probed, probes = add_probes(model, tensors, counts, known_dims(model, first))
    fixed = model.inputs[0].shape[0] if model.inputs[0].shape else None
    size = fixed if isinstance(fixed, int) else None
    workers = workers or workers_for(providers, -(-total // _length(first)) if total else None)
    session = open_session(probed, threads=max(1, cpu_count() // workers), providers=providers)
    if providers[0] not in session.get_providers():
        progress.warn(f"{providers[0]} cannot be used on this machine; observing on the CPU")
    progress.start("observing activations", total)
    pieces = (piece for feed in itertools.chain([first], feeds) for piece in _fill(feed, size))
    waiting: list[_Seen] = []
    for seen in _run_ahead(session, pieces, workers):
        waiting.append(seen)
        progress.advance(seen.images)
        if sum(one.images for one in waiting) >= COUNTED_AT_ONCE:
            _take_all(result, waiting, probes, model)
            waiting.clear()
    _take_all(result, waiting, probes, model)
    result.bytes_seen = 4 * result.images * sum(probe.elements for probe in probes)
    return result


def not_finite(tensor: str) -> str:
    """The sentence about a tensor that no range can hold."""
    return f"tensor {tensor!r} holds NaN or infinite values on the calibration images"


def suggest_batch(model: Model, tensors: Sequence[str], providers: Sequence[str] = CPU) -> int:
    """A batch size whose activations fit BATCH_BYTES, from 1 to LARGEST_BATCH."""
    wanted = set(tensors)
    dims = [dims_of(v) for node in model.graph.graph for v in node.outputs if v.name in wanted]
    size = max(1, min(LARGEST_BATCH, BATCH_BYTES // max(1, 4 * sum(map(elements, dims)))))
    return max(size, GPU_BATCH) if tuple(providers) != CPU else size


def workers_for(providers: Sequence[str] = CPU, runs: int | None = None) -> int:
    """How many batches run at the same time: one for each core, as far as there are so many; one on a GPU."""
    if tuple(providers) != CPU:
        return 1
    return min(cpu_count(), runs) if runs else cpu_count()


def known_dims(model: Model, feeds: Feeds) -> dict[str, Dims]:
    """Dims of inner values that depend on dynamic dims of the inputs (height, sequence length), as in `feeds`.

    Nothing where the batch is the only dynamic dim, or where inference does not know.
    """
    from edgeopt.model.shapes import infer_shapes

    if all(isinstance(dim, int) for info in model.inputs for dim in info.shape[1:]):
        return {}
    fixed = model.copy()
    for value in fixed.graph.graph.inputs:
        if value.name is not None and value.name in feeds and value.shape is not None:
            value.shape = ir.Shape([*value.shape[:1], *feeds[value.name].shape[1:]])
    try:
        shaped = infer_shapes(fixed, None)
    except StageFailed:
        return {}
    return {value.name or "": dims_of(value) for node in shaped.graph.graph for value in node.outputs}


def _run_ahead(session: ort.InferenceSession, pieces: Iterator[_Piece], workers: int) -> Iterator[_Seen]:
    """What came of each piece, in order; `workers` run at a time, one more is fed ahead."""
    outputs = [output.name for output in session.get_outputs()]

    def work(piece: _Piece) -> _Seen:
        found = dict(zip(outputs, run(session, piece.feeds), strict=True))
        return _Seen(found, piece.images, _length(piece.feeds))

    with ThreadPoolExecutor(workers, "edgeopt-observe") as pool:
        coming: deque[Future[_Seen]] = deque()
        for piece in pieces:
            coming.append(pool.submit(work, piece))
            if len(coming) > workers:
                yield coming.popleft().result()
        while coming:
            yield coming.popleft().result()


def _take_all(result: Observation, seen: Sequence[_Seen], probes: Sequence[Probe], model: Model) -> None:
    """Add the statistics of some runs. Raises StageFailed for an output of the model that is not finite, naming the
    first observed tensor that is not."""
    names = [probe.tensor for probe in probes if not _take(result.histograms[probe.tensor], seen, probe)]
    floats = [info.name for info in model.outputs if info.dtype.kind == "f"]
    broken = [name for name in floats if not all(np.isfinite(one.found[name]).all() for one in seen)]
    if broken:
        raise StageFailed(
            not_finite([*names, *broken][0]),
            fix="look at the images' preprocessing and at the layer that makes it",
        )
    result.not_finite |= dict.fromkeys(names)
    result.images += sum(one.images for one in seen)


def _take(histogram: Histogram, seen: Sequence[_Seen], probe: Probe) -> bool:
    """Add the statistics of some runs for one tensor; False, and nothing added, when they are not finite."""
    if not seen:
        return True
    each = [one.extremes(probe) for one in seen]
    lows, highs = (np.concatenate(parts) for parts in zip(*each, strict=True))
    samples = [] if probe.sample is None else [one.own(probe.sample) for one in seen]
    if len({rows.shape[1] for rows in samples}) == 1:
        samples = [np.concatenate(samples)]
    if not all(np.isfinite(values).all() for values in (lows, highs, *samples)):
        return False
    histogram.extend_by_images(lows, highs)
    for rows in samples:
        histogram.count(rows)
    return True


def _of_constant(model: Model, tensor: str, counts: bool) -> Histogram:
    """A histogram that holds a constant's values; an empty one for what is computed."""
    histogram = Histogram()
    value = model.graph.graph.initializers.get(tensor)
    if value is not None and value.const_value is not None:
        array = value.const_value.numpy()
        histogram.extend_by_images(array.min(keepdims=True).ravel(), array.max(keepdims=True).ravel())
        if counts:
            histogram.count(array.reshape(1, -1))
    return histogram


def _by_name(batch: np.ndarray | Feeds, model: Model) -> Feeds:
    return batch if isinstance(batch, Mapping) else {model.inputs[0].name: batch}


def _length(feeds: Feeds) -> int:
    return len(next(iter(feeds.values())))


def _fill(feeds: Feeds, size: int | None) -> Iterator[_Piece]:
    """The batch in pieces of the model's fixed batch size; a short last piece is filled with images of its own."""
    count = _length(feeds)
    if size is None or size == count:
        yield _Piece(feeds, count)
        return
    for start in range(0, count, size):
        piece = {name: array[start : start + size] for name, array in feeds.items()}
        full = {name: np.resize(array, (size, *array.shape[1:])) for name, array in piece.items()}
        yield _Piece(full, _length(piece))
