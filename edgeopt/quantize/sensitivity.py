"""Which layers lose accuracy in integers, and where in the network the error comes in.

Two figures for each layer, in decibels of signal to quantization noise (SQNR), both on a few calibration samples:

- `alone_db`: of the model's first output, when this layer alone is in integers: its weight and bias, the tensors it
  reads and the one it makes (after a folded clip). It says what leaving the layer in float can give back. Errors of
  different layers add up nearly as independent noise (Zhou et al. 2018, Adaptive Quantization for Deep Neural Network,
  arXiv:1712.01048), so the ranking by it is the order in which layers are worth keeping in float. `alone.py` says how
  it is measured without a full pass for each layer.
- `output_db`: of the layer's own output, when the whole model is in integers, beside `input_db`, the worst of what it
  reads. Where the second figure is much better than the first, error enters (`entrances`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir

from edgeopt.model.model import Model
from edgeopt.model.profile import layer_name
from edgeopt.quantize.alone import Feeds, Frontier, Rounding, crossing_bytes, roundings
from edgeopt.quantize.build import Builder, Built
from edgeopt.quantize.samples import Samples
from edgeopt.stage import Context

__all__ = ["HIGHEST_DB", "Sensitivity", "Tally", "entrances", "exclude_list", "layers_sqnr_db", "rank"]

HIGHEST_DB = 150.0
"""Stands for equal outputs: what float32 arithmetic itself leaves is around 120 to 140 dB."""
SAMPLES = 16
HELD_BYTES = 128 * 2**20
"""What the float values at one place of the graph may take, all samples together: fewer samples where it is more."""
BATCH = 4
GLANCED = 4
"""Samples of `layers_sqnr_db`."""


@dataclass(frozen=True)
class Sensitivity:
    """What int8 does to one layer, and what one layer does to the model."""

    name: str
    """Of the node: what `exclude` takes."""
    layer: str
    """What its weights are called (`layer1.0.conv1`), or the node's name."""
    operator: str
    alone_db: float | None
    """SQNR of the model's first output with only this layer in integers; None where time ran out before it."""
    input_db: float
    """The lowest SQNR among the layers that it reads, with everything in integers."""
    output_db: float
    """SQNR of the layer's own output, with everything in integers."""
    weight_share: float
    """Of the model's weights, fraction of 1."""

    def facts(self) -> dict[str, Any]:
        """As JSON-ready facts."""
        return asdict(self)


def rank(
    builder: Builder,
    samples: Samples,
    context: Context,
    *,
    count: int = SAMPLES,
    stop: Callable[[], bool] = lambda: False,
) -> list[Sensitivity]:
    """Every integer layer, the one that harms the model most first.

    `count` samples are used, fewer where the float values of so many take too much memory. `stop` is asked before each
    layer; once it says true the rest is ranked by the error of their own outputs, after those that were measured
    worse. Raises StageFailed when onnxruntime cannot run a part of the model.
    """
    built = builder.build()
    layers = roundings(builder.model, built)
    fitting = max(1, HELD_BYTES // max(1, crossing_bytes(builder.model)))
    batches = list(samples.take(min(count, fitting)).batches(_batch_size(builder.model)))
    own = _output_decibels(builder.model, built, layers, batches)
    found = _describe(builder.model, layers, own)
    found = _measure_alone(builder.model, layers, found, batches, context, stop)
    return sorted(found, key=lambda s: s.output_db if s.alone_db is None else s.alone_db)


def layers_sqnr_db(model: Model, built: Built, samples: Samples) -> dict[str, float]:
    """What each layer is called in reports -> SQNR of its own output with all of `built` in integers, dB.

    On a few samples: two models run once on each, so it costs next to nothing beside calibration.
    """
    from edgeopt.model.profile import node_label

    layers = roundings(model, built)
    own = _output_decibels(model, built, layers, list(samples.take(GLANCED).batches(_batch_size(model))))
    labels = {node.name: node_label(node) for node in model.graph.graph}
    return {labels[name]: round(decibels, 2) for name, decibels in own.items()}


def entrances(ranked: Sequence[Sensitivity], count: int) -> list[Sensitivity]:
    """The `count` layers at which most noise enters, in shares of their output's power."""
    return sorted(ranked, key=lambda s: 10 ** (-s.input_db / 10) - 10 ** (-s.output_db / 10))[:count]


def exclude_list(ranked: Sequence[Sensitivity], count: int) -> list[str]:
    """Entries for `exclude` that keep the first `count` layers in float."""
    return [layer.name for layer in ranked[:count]]


def _measure_alone(
    model: Model,
    layers: Sequence[Rounding],
    found: Sequence[Sensitivity],
    batches: Sequence[Feeds],
    context: Context,
    stop: Callable[[], bool],
) -> list[Sensitivity]:
    frontier = Frontier(model, batches)
    reference = frontier.outputs()
    measured = list(found)
    context.progress.start("layers, one by one", len(layers))
    for index, rounding in enumerate(layers):
        if stop():
            break
        tally = Tally()
        for expected, got in zip(reference, frontier.outputs_with(rounding), strict=True):
            tally.add(expected, got)
        measured[index] = replace(found[index], alone_db=tally.decibels)
        context.progress.advance(metric=f"{tally.decibels:.1f} dB")
    return measured


def _output_decibels(
    model: Model, built: Built, layers: Sequence[Rounding], batches: Sequence[Feeds]
) -> dict[str, float]:
    """SQNR of each layer's output as its readers get it, one sample at a time through both models."""
    tallies = {rounding.name: Tally() for rounding in layers}
    run_float = _Watch(model, [rounding.result for rounding in layers])
    run_integer = _Watch(built.model, _counterparts(built, layers))
    for batch in batches:
        for at in range(0, len(next(iter(batch.values()))), run_float.step):
            feeds = {name: array[at : at + run_float.step] for name, array in batch.items()}
            for rounding, expected, got in zip(layers, run_float(feeds), run_integer(feeds), strict=True):
                tallies[rounding.name].add(expected, got)
    return {name: tally.decibels for name, tally in tallies.items()}


def _counterparts(built: Built, layers: Sequence[Rounding]) -> list[str]:
    """Names in the integer model of what the layers make, after the pair where there is one."""
    nodes = {node.name: node for node in built.model.graph.graph}
    read = {p.tensor: p for p in built.plan.points if p.uses or p.graph_output}
    names = []
    for rounding in layers:
        point = read.get(rounding.result)
        uses = [use for use in point.uses if use[0] in nodes] if point is not None else []  # others are in subgraphs
        if point is not None and point.graph_output:
            value = next(output for output in built.model.graph.graph.outputs if output.name == rounding.result)
        elif uses:
            name, index = uses[0]
            value = nodes[name].inputs[index]  # type: ignore[assignment]
        else:
            value = nodes[rounding.name].outputs[0]
        names.append(value.name or "")
    return names


class _Watch:
    """A model that hands out inner tensors."""

    def __init__(self, model: Model, tensors: Sequence[str]) -> None:
        from edgeopt.model.runtime import open_session

        watched = model.copy()
        graph = watched.graph.graph
        values = {v.name: v for v in (*graph.inputs, *(v for node in graph for v in node.outputs))}
        outputs = {value.name for value in graph.outputs}
        graph.outputs.extend(values[name] for name in dict.fromkeys(tensors) if name not in outputs)
        self._session = open_session(watched)
        self._tensors = tensors
        self.step = model.fixed_batch or 1

    def __call__(self, feeds: Feeds) -> list[np.ndarray]:
        from edgeopt.model.runtime import run

        names = [output.name for output in self._session.get_outputs()]
        found = dict(zip(names, run(self._session, feeds), strict=True))
        return [found[name] for name in self._tensors]


class Tally:
    """Running sums of signal and noise, for an SQNR."""

    def __init__(self) -> None:
        self.signal = self.noise = 0.0

    def add(self, expected: np.ndarray, got: np.ndarray) -> None:
        """Count one batch. An answer of another shape (detections vary in number) counts as none at all."""
        if got.shape != expected.shape:
            got = np.zeros_like(expected)
        self.signal += float(np.sum(np.square(expected, dtype=np.float64)))
        self.noise += float(np.sum(np.square(np.subtract(got, expected, dtype=np.float64))))

    @property
    def decibels(self) -> float:
        """At most HIGHEST_DB; -HIGHEST_DB for noise without a signal."""
        if self.noise == 0:
            return HIGHEST_DB
        if self.signal == 0 or not math.isfinite(self.noise):
            return -HIGHEST_DB
        return min(10 * math.log10(self.signal / self.noise), HIGHEST_DB)


def _batch_size(model: Model) -> int:
    """The model's own where it is fixed."""
    return model.fixed_batch or BATCH


def _describe(model: Model, layers: Sequence[Rounding], own: dict[str, float]) -> list[Sensitivity]:
    """All but `alone_db`."""
    nodes = {node.name: node for node in model.graph.graph}
    total = max(1, sum(array.size for array in model.weights().values()))
    worst = _worst_read(model, {rounding.result: own[rounding.name] for rounding in layers})
    found = []
    for r in layers:
        node = nodes[r.name]
        share = 0.0 if r.layer is None else r.layer.weight.size / total
        read = min((worst[v] for v in node.inputs if v in worst), default=HIGHEST_DB)
        found.append(Sensitivity(r.name, layer_name(node) or r.name, r.operator, None, read, own[r.name], share))
    return found


def _worst_read(model: Model, known: dict[str, float]) -> dict[ir.Value, float]:
    """Value -> its SQNR where that is known, else the lowest of what it is computed from."""
    worst: dict[ir.Value, float] = {}
    for node in model.graph.graph:
        read = min((worst[v] for v in node.inputs if v in worst), default=HIGHEST_DB)
        worst |= {value: known.get(value.name or "", read) for value in node.outputs}
    return worst
