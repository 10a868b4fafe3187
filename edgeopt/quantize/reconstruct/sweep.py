"""The sweep: the layers of a Q/DQ model one after the other, each fitted under the new integers of those before it.

The target of a layer is its float output. Where that output is added to something that is there already (the end of a
residual branch), the target also takes back the error of what it is added to: the branch corrects the stream.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from edgeopt.model.model import Model
from edgeopt.model.runtime import open_session, run
from edgeopt.quantize.layers import IntegerLayer, integer_layers, with_layers
from edgeopt.quantize.reconstruct.layer import LayerFit, layer_fit
from edgeopt.quantize.reconstruct.segments import Segments
from edgeopt.quantize.samples import Samples
from edgeopt.stage import Context, StageResult

__all__ = ["Sweep"]

BATCH = 4
HELD_BYTES = 128 * 2**20
"""Activations held of each of the two models, all batches together; where the graph is wider than that, layers are run
from the last place that was narrower."""
HELD_OUT = 4
"""Every so many batches one is kept from the fit, to choose how far to trust it."""

Change = tuple[np.ndarray | None, np.ndarray | None]


class Sweep:
    """One float model and its Q/DQ version, and how far the work on the latter is."""

    def __init__(self, model: Model, quantized: Model, samples: Samples, context: Context) -> None:
        self.quantized = quantized
        self.context = context
        self.samples = samples
        self.float_nodes = {node.name: node for node in model.graph.graph}
        self.model = model
        batches = list(_batches(model, samples))
        self.count = len(batches)
        self.real = Segments(model, batches)
        self.rough = Segments(quantized, batches)
        self.changes: dict[str, Change] = {}
        self.left: dict[str, str] = {}
        self.ratios: list[tuple[float, float]] = []

    def run(self, rows: int, max_seconds: float | None) -> StageResult:
        """Fit all layers (those reached in time) and judge the result by the model's outputs."""
        started = time.monotonic()
        layers = integer_layers(self.quantized)
        pending = {layer.name for layer in layers}
        self.context.progress.start("reconstructing layers", len(layers))
        for layer in layers:
            if max_seconds is not None and time.monotonic() - started > max_seconds:
                self.left[layer.name] = "time ran out"
                continue
            reading = self._refine(layer, rows, pending)
            pending.discard(layer.name)
            self.context.progress.advance(1, reading)
        return self._judge(started)

    def _refine(self, layer: IntegerLayer, rows: int, pending: set[str]) -> str:
        """Fit one layer, put its integers in and move on behind it. Returns a live reading."""
        work = layer_fit(layer, self.float_nodes[layer.name])
        if isinstance(work, LayerFit) and not self.rough.owns(layer.name, (1, 2)):
            work = "it shares its weight or bias with another layer"
        if isinstance(work, str):
            self.left[layer.name] = work
            return ""
        self._look(work, rows, pending)
        fit = work.solve()
        if fit.error_after < fit.error_before:
            self.changes[layer.name] = (fit.weight, fit.bias)
            self.rough.set_inputs(layer.name, {1: fit.weight, 2: fit.bias})
        else:
            self.left[layer.name] = "its error would not shrink"
        before, after = _decibels(fit.signal, fit.error_before), _decibels(fit.signal, fit.error_after)
        self.ratios.append((before, max(before, after)))
        for segments in (self.real, self.rough):
            segments.advance(layer.name, HELD_BYTES)
        return f"{max(before, after):.1f} dB"

    def _look(self, work: LayerFit, rows: int, pending: set[str]) -> None:
        """Let the layer count its rows of every batch."""
        name = work.layer.name
        entry, output = self.rough.node(name).input[0], self.real.node(name).output[0]
        beside = self._beside(name, pending)
        wanted = ([output], [entry]) if beside is None else ([output, beside[0]], [entry, beside[1]])
        rng = np.random.default_rng(self.context.seed)
        each = -(-rows // self.count)
        for number, (real, rough) in enumerate(zip(self.real.run(wanted[0]), self.rough.run(wanted[1]), strict=True)):
            target = real[output]
            places = work.form.places(target, each, rng)
            if beside is not None and real[beside[0]].shape == rough[beside[1]].shape == target.shape:
                target = target + real[beside[0]] - rough[beside[1]]
            work.count(rough[entry], target, places, held_out=number % HELD_OUT == HELD_OUT - 1)

    def _beside(self, name: str, pending: set[str]) -> tuple[str, str] | None:
        """What the layer's output is added to, in the float and in the Q/DQ graph; None where it is not added to
        anything, or where layers that are not done yet would still change that."""
        output = self.real.node(name).output[0]
        readers = self.real.readers(output)
        if len(readers) != 1 or readers[0].op_type != "Add" or not self.rough.has_node(readers[0].name):
            return None
        place = 1 - list(readers[0].input).index(output)
        real, rough = readers[0].input[place], self.rough.node(readers[0].name).input[place]
        if self.real.is_constant(real) or self.rough.ancestors(rough) & pending:
            return None
        return real, rough

    def _judge(self, started: float) -> StageResult:
        """The new model, unless its outputs on the samples are no nearer to the float model's than before."""
        refined = with_layers(self.quantized, self.changes)
        errors, signal = self._output_errors(self.quantized, refined)
        better = errors[1] < errors[0]
        if not better:
            self.context.progress.warn("reconstruction brought the outputs no nearer to the float model's: undone")
        facts: dict[str, Any] = {
            "kind": "reconstruct",
            "samples": len(self.samples),
            "layers_changed": len(self.changes) if better else 0,
            "layers_left": self.left,
            "layer_sqnr_db_before": _mean(before for before, _ in self.ratios),
            "layer_sqnr_db_after": _mean(after for _, after in self.ratios),
            "output_sqnr_db_before": round(_decibels(signal, errors[0]), 2),
            "output_sqnr_db_after": round(_decibels(signal, errors[1]), 2),
            "seconds": round(time.monotonic() - started, 1),
        }
        return StageResult(refined if better else self.quantized, facts)

    def _output_errors(self, *models: Model) -> tuple[list[float], float]:
        """Summed squared error of each model's float outputs on the samples, and the float model's summed squares."""
        reference, sessions = open_session(self.model), [open_session(model) for model in models]
        errors, signal = [0.0] * len(models), 0.0
        for batch in _batches(self.model, self.samples):
            true = [array for array in run(reference, batch) if array.dtype.kind == "f"]
            signal += sum(float(np.square(array, dtype=np.float64).sum()) for array in true)
            for index, session in enumerate(sessions):
                found = [array for array in run(session, batch) if array.dtype.kind == "f"]
                for a, b in zip(true, found, strict=True):
                    errors[index] += float(np.square(a.astype(np.float64) - b).sum())
        return errors, signal


def _batches(model: Model, samples: Samples) -> Iterator[Mapping[str, np.ndarray]]:
    """All samples, in batches of the model's fixed size or of BATCH; a short last one repeats samples of its own."""
    fixed = next((info.shape[0] for info in model.inputs if info.shape and isinstance(info.shape[0], int)), None)
    size = fixed if isinstance(fixed, int) else min(BATCH, max(1, len(samples) // HELD_OUT))
    for batch in samples.batches(size):
        if fixed is None:
            yield batch
        else:
            yield {name: np.resize(array, (size, *array.shape[1:])) for name, array in batch.items()}


def _decibels(signal: float, error: float) -> float:
    return float(10 * np.log10(max(signal, 1e-30) / max(error, 1e-30)))


def _mean(values: Iterable[float]) -> float | None:
    found = list(values)
    return round(float(np.mean(found)), 2) if found else None
