"""The sweep: the layers of a Q/DQ model one after the other, each fitted under the new integers of those before it.

The target of a layer is its float output. Where that output is added to something that is there already (the end of a
residual branch), the target also takes back the error of what it is added to: the branch corrects the stream.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from typing import Any

import numpy as np

from edgeopt.model.layerwise.beside import added_to
from edgeopt.model.layerwise.pile import pile_up
from edgeopt.model.layerwise.segments import Segments
from edgeopt.model.model import Model
from edgeopt.quantize.layers import IntegerLayer, integer_layers, with_layers
from edgeopt.quantize.memory import plan_pieces
from edgeopt.quantize.reconstruct.layer import LayerFit, layer_fit
from edgeopt.quantize.samples import Samples
from edgeopt.stage import Context, StageResult

__all__ = ["Sweep"]

BATCH = 4
HELD_BYTES = 128 * 2**20
"""Activations put aside of each of the two models, all batches together; where the graph is wider than that, layers are
run from the last place that was narrower."""
HELD_OUT = 4
"""Every so many batches one is kept from the fit, to choose how far to trust it."""

Change = tuple[np.ndarray | None, np.ndarray | None]


class Sweep:
    """One float model and its Q/DQ version, and how far the work on the latter is."""

    def __init__(
        self, model: Model, quantized: Model, samples: Samples, context: Context, room: float = math.inf
    ) -> None:
        self.quantized = quantized
        self.context = context
        self.samples = samples
        self.float_nodes = {node.name: node for node in model.graph.graph}
        pieces = plan_pieces(model, samples, min(BATCH, max(1, len(samples) // HELD_OUT)), room)
        self.room = room - pieces.predicted_bytes
        inputs = pile_up(samples.fitting(model, pieces.batch_size), pieces.in_memory)
        self.real, self.rough = (Segments(graph, inputs, pieces.in_memory) for graph in (model, quantized))
        self.changes: dict[str, Change] = {}
        self.left: dict[str, str] = {}
        self.ratios: list[tuple[float, float]] = []

    def run(self, rows: int, max_seconds: float | None) -> StageResult:
        """The model with all layers fitted (those reached in time)."""
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
        facts: dict[str, Any] = {
            "kind": "reconstruct",
            "samples": len(self.samples),
            "layers_changed": len(self.changes),
            "layers_left": self.left,
            "layer_sqnr_db_before": _mean(before for before, _ in self.ratios),
            "layer_sqnr_db_after": _mean(after for _, after in self.ratios),
            "seconds": round(time.monotonic() - started, 1),
        }
        return StageResult(with_layers(self.quantized, self.changes), facts)

    def _refine(self, layer: IntegerLayer, rows: int, pending: set[str]) -> str:
        """Fit one layer, put its integers in and move on behind it. Returns a live reading."""
        work = layer_fit(layer, self.float_nodes[layer.name])
        if isinstance(work, LayerFit) and not self.rough.owns(layer.name, (1, 2)):
            work = "it shares its weight or bias with another layer"
        if isinstance(work, LayerFit) and work.solve_bytes(-(-rows // self.real.batches)) > self.room:
            work = "its fit takes more memory than is allowed"
        if isinstance(work, str):
            self.left[layer.name] = work
            return ""
        self._look(work, rows, pending)  # moves on in the float model: nothing of it will change
        fit = work.solve()
        if fit.error_after < fit.error_before:
            self.changes[layer.name] = (fit.weight, fit.bias)
            self.rough.set_inputs(layer.name, {1: fit.weight, 2: fit.bias})
        else:
            self.left[layer.name] = "its error would not shrink"
        before, after = _decibels(fit.signal, fit.error_before), _decibels(fit.signal, fit.error_after)
        self.ratios.append((before, max(before, after)))
        self.rough.advance(layer.name, HELD_BYTES)
        return f"{max(before, after):.1f} dB"

    def _look(self, work: LayerFit, rows: int, pending: set[str]) -> None:
        """Let the layer count its rows of every batch."""
        name = work.layer.name
        entry, output = self.rough.node(name).input[0], self.real.node(name).output[0]
        beside = added_to(output, self.real, self.real, self.rough, pending)
        wanted = ([output], [entry]) if beside is None else ([output, beside[0]], [entry, beside[1]])
        rng = np.random.default_rng(self.context.seed)
        each = -(-rows // self.real.batches)
        reals = self.real.step(name, wanted[0], limit_bytes=HELD_BYTES)
        for number, (real, rough) in enumerate(zip(reals, self.rough.run(wanted[1]), strict=True)):
            target = real[output]
            if target.size == 0 or rough[entry].shape[:1] != target.shape[:1]:
                continue  # detections vary in number
            places = work.form.places(target, each, rng)
            if beside is not None and real[beside[0]].shape == rough[beside[1]].shape == target.shape:
                target = target + real[beside[0]] - rough[beside[1]]
            work.count(rough[entry], target, places, held_out=number % HELD_OUT == HELD_OUT - 1)


def _decibels(signal: float, error: float) -> float:
    return float(10 * np.log10(max(signal, 1e-30) / max(error, 1e-30)))


def _mean(values: Iterable[float]) -> float | None:
    found = list(values)
    return round(float(np.mean(found)), 2) if found else None
