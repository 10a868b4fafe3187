"""One streaming pass over the calibration images: what values each tensor takes.

The statistics are computed inside the graph, by nodes appended to it: ReduceMin and ReduceMax of every observed
tensor, and a strided sample of it where the calibrator counts values. So onnxruntime frees each activation as soon
as its readers are done, as in plain inference, and what comes back is small: memory is that of running one batch,
whatever the number of images, tensors and the calibrator.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import onnx_ir as ir

from edgeopt.errors import StageFailed
from edgeopt.machine import cpu_count
from edgeopt.model.model import Model
from edgeopt.model.runtime import open_session, run
from edgeopt.progress import SILENT, Progress
from edgeopt.quantize.histogram import Histogram

__all__ = ["SAMPLED", "Observation", "observe", "suggest_batch"]

SAMPLED = 8192
"""At most about this many values of a tensor are counted for each image (extremes always see all of them)."""


BATCH_BYTES = 64 * 2**20
"""Observed activations of one batch, which bounds what is alive at one moment."""
LARGEST_BATCH = 32


@dataclass
class Observation:
    """What one pass saw."""

    histograms: dict[str, Histogram]
    images: int = 0
    bytes_seen: int = 0
    """float32 bytes of the observed activations, all images together; none of it was kept."""


@dataclass(frozen=True)
class _Probe:
    """Names of the extra outputs for one tensor; `sample` is None where only extremes are asked for."""

    tensor: str
    low: str
    high: str
    sample: str | None
    elements: int
    """Values of the tensor for one image, as far as its shape is known."""


def observe(
    model: Model,
    tensors: Sequence[str],
    batches: Iterable[np.ndarray],
    *,
    counts: bool,
    total: int = 0,
    progress: Progress = SILENT,
) -> Observation:
    """Run the model on `batches` (float32 [n, ...], any n) and return a Histogram for each of `tensors`.

    `counts` false: extremes only. `total` is the number of images, for the progress display.
    Raises StageFailed naming the first tensor, in the order of the graph, with a NaN or an infinity in it.
    """
    probed, probes = _add_probes(model, tensors, counts)
    session = open_session(probed)
    result = Observation({tensor: _of_constant(model, tensor, counts) for tensor in tensors})
    source = session.get_inputs()[0]
    fixed = source.shape[0] if isinstance(source.shape[0], int) else None
    outputs = [output.name for output in session.get_outputs()]
    progress.start("observing activations", total)
    with ThreadPoolExecutor(cpu_count()) as pool:
        for batch in batches:
            for x in _fill(batch, fixed):
                found = dict(zip(outputs, run(session, {source.name: x}), strict=True))
                take = partial(_take, result.histograms, found)
                _refuse_infinite(probes, list(pool.map(take, probes)), model, found)
            result.images += len(batch)
            progress.advance(len(batch))
    result.bytes_seen = 4 * result.images * sum(probe.elements for probe in probes)
    return result


def suggest_batch(model: Model, tensors: Sequence[str]) -> int:
    """A batch size whose activations fit BATCH_BYTES, from 1 to LARGEST_BATCH."""
    wanted = set(tensors)
    values = (v for node in model.graph.graph for v in node.outputs if v.name in wanted)
    return max(1, min(LARGEST_BATCH, BATCH_BYTES // max(1, 4 * sum(map(_elements, values)))))


def _refuse_infinite(
    probes: Sequence[_Probe], finite: Sequence[bool], model: Model, found: Mapping[str, np.ndarray]
) -> None:
    """Raise StageFailed for the first observed tensor that is not finite, or else for such an output of the model."""
    names = [probe.tensor for probe, good in zip(probes, finite, strict=True) if not good]
    names += [v.name for v in model.outputs if v.dtype.kind == "f" and not np.isfinite(found[v.name]).all()]
    if names:
        raise StageFailed(
            f"tensor {names[0]!r} holds NaN or infinite values on the calibration images",
            fix="look at the images' preprocessing and at the layer that makes it, or exclude its readers",
        )


def _add_probes(model: Model, tensors: Sequence[str], counts: bool) -> tuple[Model, list[_Probe]]:
    """The model with the statistics as further outputs, and where to find them."""
    probed = model.copy()
    graph = probed.graph.graph
    values = {v.name: v for v in (*graph.inputs, *(v for node in graph for v in node.outputs))}
    probes = [_probe(graph, values[tensor], counts) for tensor in tensors if tensor in values]
    return probed, probes


def _probe(graph: ir.Graph, value: ir.Value, counts: bool) -> _Probe:
    nodes = [ir.node(kind, [value], {"keepdims": 0}) for kind in ("ReduceMin", "ReduceMax")]
    if counts:
        stride = _stride(value)
        flat = ir.node("Flatten", [value], {"axis": 1 if stride > 1 else 0})
        nodes.append(flat)
        if stride > 1:
            bounds = [
                _vector(graph, f"{value.name}_{part}", n)
                for part, n in (("starts", 0), ("ends", np.iinfo(np.int64).max), ("axes", 1), ("steps", stride))
            ]
            nodes.append(ir.node("Slice", [flat.outputs[0], *bounds]))
    names = [f"{value.name}_probe_{index}" for index in range(len(nodes))]
    for node, name in zip(nodes, names, strict=True):
        node.outputs[0].name, node.outputs[0].type = name, ir.TensorType(ir.DataType.FLOAT)
        graph.append(node)
    wanted = [nodes[0], nodes[1], *nodes[-1:]] if counts else nodes
    graph.outputs.extend(node.outputs[0] for node in wanted)
    return _Probe(value.name or "", names[0], names[1], names[-1] if counts else None, _elements(value))


def _vector(graph: ir.Graph, name: str, number: int) -> ir.Value:
    tensor = ir.tensor(np.array([number], np.int64), name=name)
    value = ir.Value(name=name, shape=ir.Shape([1]), type=ir.TensorType(ir.DataType.INT64), const_value=tensor)
    graph.register_initializer(value)
    return value


def _stride(value: ir.Value) -> int:
    """Step through one image's values that leaves about SAMPLED of them, without falling into step with a dim:
    it has no factor in common with any. 1 where the size is unknown."""
    dims = list(value.shape or [])[1:]
    size = math.prod(dim for dim in dims if isinstance(dim, int))
    if not dims or not all(isinstance(dim, int) for dim in dims):
        return 1
    stride = max(1, size // SAMPLED)
    while math.gcd(stride, size) > 1:
        stride += 1
    return stride


def _elements(value: ir.Value) -> int:
    """Values for one image, as far as the shape is known."""
    return math.prod(dim for dim in list(value.shape or [])[1:] if isinstance(dim, int))


def _of_constant(model: Model, tensor: str, counts: bool) -> Histogram:
    """A histogram that holds a constant's values; an empty one for what is computed."""
    histogram = Histogram()
    value = model.graph.graph.initializers.get(tensor)
    if value is not None and value.const_value is not None:
        array = value.const_value.numpy()
        histogram.count(array) if counts else histogram.extend(array.min(), array.max())
    return histogram


def _take(histograms: Mapping[str, Histogram], found: Mapping[str, np.ndarray], probe: _Probe) -> bool:
    """Add one batch's statistics; False, and nothing added, when they are not finite."""
    low, high = float(found[probe.low]), float(found[probe.high])
    sample = found[probe.sample] if probe.sample is not None else np.zeros(0, np.float32)
    if not (np.isfinite(low) and np.isfinite(high) and np.isfinite(sample).all()):
        return False
    histograms[probe.tensor].extend(low, high)
    histograms[probe.tensor].count(sample)
    return True


def _fill(batch: np.ndarray, size: int | None) -> Iterator[np.ndarray]:
    """The batch in pieces of the model's fixed batch size; a short last piece is filled with images of its own."""
    if size is None or size == len(batch):
        yield batch
        return
    for start in range(0, len(batch), size):
        piece = batch[start : start + size]
        yield np.resize(piece, (size, *piece.shape[1:]))
