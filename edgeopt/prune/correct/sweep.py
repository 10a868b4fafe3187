"""The sweep: the layers behind the first narrowed tensor, one after the other, each fitted under those before it.

The target of a layer is what the original computes there, at the channels that stay. Where that is added to something
that is there already (the end of a residual branch), the target also takes back the error of what it is added to: the
branch corrects the stream.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from edgeopt.data import Split
from edgeopt.data.feeds import feeds_for
from edgeopt.model import Model
from edgeopt.model.layerwise.beside import added_to
from edgeopt.model.layerwise.pile import Pile, pile_up
from edgeopt.model.layerwise.segments import Segments
from edgeopt.model.runtime import open_session, run
from edgeopt.prune.batches import BATCH, HELD_BYTES
from edgeopt.prune.correct.layer import LayerFit, layer_fit
from edgeopt.prune.correct.tail import statistics_kept
from edgeopt.stage import Context, StageResult

__all__ = ["Sweep"]

HELD_OUT = 4
"""Every so many batches one is kept from the fit, to choose how far to trust it; every so many images one judges."""
JUDGED_AT_ONCE = 4
"""Images."""
LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


class Sweep:
    """The original, what was pruned from it, and how far the work on the latter is."""

    def __init__(
        self, original: Model, pruned: Model, record: Sequence[Mapping[str, Any]], split: Split, context: Context
    ) -> None:
        self.original, self.pruned, self.context = original, pruned, context
        self.kept = {(entry["name"], entry["axis"]): np.asarray(entry["kept"]) for entry in record}
        count = max(1, len(split) * HELD_OUT // (HELD_OUT + 1))
        self.samples = split.take(np.arange(count))
        self.judges = split.take(np.arange(count, len(split))) if len(split) > count else self.samples
        size = min(BATCH, max(1, count // HELD_OUT))
        inputs = pile_up(feeds_for(original, self.samples, size))
        self.real, self.rough = Segments(original, inputs), Segments(pruned, inputs)
        self.constants = dict(pruned.weights())
        self.changes: dict[str, np.ndarray] = {}
        self.changed: list[str] = []
        self.left: dict[str, str] = {}

    def run(self, rows: int) -> StageResult:
        """Correct all layers that need it and judge the result by the model's outputs."""
        started = time.monotonic()
        nodes = self._behind_narrowed()
        layers = [node for node in nodes if node.op_type in LAYERS]
        pending = {node.name for node in layers}
        done: set[str] = set()
        self.context.progress.start("correcting layers", len(layers))
        for node in nodes:
            if node.op_type == "BatchNormalization" and node.name not in done:
                self._count_anew(node)
            elif node.name in pending:
                done.add(self._correct(node, rows, pending))
                pending.discard(node.name)
                self.context.progress.advance(1)
        return self._judge(started)

    def _behind_narrowed(self) -> list[onnx.NodeProto]:
        """Layers and BatchNormalizations whose input is narrowed, or computed from what is, in order."""
        weights = {name for name, _ in self.kept}
        narrowed: set[str] = set()
        found = []
        for node in map(ir.to_proto, self.pruned.graph.graph):
            touched = any(name in narrowed or name in weights for name in node.input)
            if node.op_type in (*LAYERS, "BatchNormalization") and node.input[0] in narrowed and node.name:
                found.append(node)
            if touched:
                narrowed.update(node.output)
        return found

    def _correct(self, node: onnx.NodeProto, rows: int, pending: set[str]) -> str:
        """Fit one layer, put the result in and move on behind it. Returns the name of its last node."""
        work = layer_fit(node, self.rough, self.constants)
        if isinstance(work, LayerFit) and not self.real.has_node(node.name):
            work = "the original has no such node"
        if isinstance(work, LayerFit) and not self._look(node, work, rows, pending):
            work = "the original reads another shape there"
        if isinstance(work, str):
            self.left[node.name] = work
            return node.name
        weight, constants, before, after = work.solve()
        if after < before:
            self.changed.append(node.name)
            self._put(node, {1: weight})
            behind = self.rough.node(work.tail.last)
            self._put(behind, {list(behind.input).index(name): array for name, array in constants.items()})
        else:
            self.left[node.name] = "its error would not shrink"
        self.rough.advance(node.name, HELD_BYTES)
        return work.tail.last

    def _look(self, node: onnx.NodeProto, work: LayerFit, rows: int, pending: set[str]) -> bool:
        """Let the layer count its rows of every batch; False where the two graphs do not match."""
        real_entry, entry = self.real.node(node.name).input[0], node.input[0]
        output, axis = work.tail.output, 1 if work.form.kernel else -1
        kept = self.kept.get((node.input[1], 1 if work.form.transposed else 0))
        beside = added_to(output, self.rough, self.real, self.rough, pending)
        of_real, of_rough = [real_entry, output], [entry]
        if beside is not None:
            of_real, of_rough = [*of_real, beside[0]], [entry, beside[1]]
        rng = np.random.default_rng(self.context.seed)
        each = -(-rows // self.real.batches)
        reals = self.real.step(node.name, of_real, limit_bytes=HELD_BYTES)  # nothing of the original will change
        for number, (real, rough) in enumerate(zip(reals, self.rough.run(of_rough), strict=True)):
            if _places(real[real_entry], axis) != _places(rough[entry], axis):
                return False
            target = _take(real[output], kept, axis)
            if beside is not None and real[beside[0]].shape == real[output].shape:
                other = _take(real[beside[0]], kept, axis)
                if other.shape == rough[beside[1]].shape:
                    target = target + other - rough[beside[1]]
            places = work.form.places(target, each, rng)
            work.count(rough[entry], target, places, held_out=number % HELD_OUT == HELD_OUT - 1)
        return True

    def _count_anew(self, node: onnx.NodeProto) -> None:
        """Statistics of a BatchNormalization that belongs to no fitted layer, from what arrives now."""
        if not statistics_kept(node, self.rough, self.constants):
            self.left[node.name] = "its statistics are not its own"
            return
        total, squares, count = np.zeros(1), np.zeros(1), 0
        for values in self.rough.run([node.input[0]]):
            x = values[node.input[0]].astype(np.float64)
            others = (0, *range(2, x.ndim))
            total, squares = total + x.sum(others), squares + np.square(x).sum(others)
            count += x.size // x.shape[1]
        mean = total / count
        self._put(node, {3: mean, 4: np.maximum(squares / count - mean**2, 0)})

    def _put(self, node: onnx.NodeProto, arrays: Mapping[int, np.ndarray]) -> None:
        """Give inputs of a node other values, in the type and shape they had."""
        for place, array in arrays.items():
            name = node.input[place]
            old = self.constants[name]
            new = np.ascontiguousarray(array.reshape(old.shape), old.dtype)
            self.constants[name] = self.changes[name] = new
            self.rough.set_inputs(node.name, {place: new})

    def _judge(self, started: float) -> StageResult:
        """The new model, unless its outputs on images that were not fitted to are no nearer to the original's."""
        corrected = self.pruned.copy()
        for name, array in self.changes.items():
            corrected.graph.graph.initializers[name].const_value = ir.tensor(array, name=name)
        before, after = self._output_errors(self.pruned, corrected)
        better = after < before
        if not better:
            self.context.progress.warn("least squares brought the outputs no nearer to the original's: undone")
        facts = {
            "kind": "least_squares",
            "samples": len(self.samples),
            "judged_on": len(self.judges),
            "layers_changed": len(self.changed) if better else 0,
            "layers_left": self.left,
            "output_error_before": before,
            "output_error_after": after if better else before,
            "seconds": round(time.monotonic() - started, 1),
        }
        return StageResult(corrected if better else self.pruned, facts)

    def _output_errors(self, *models: Model) -> list[float]:
        """Each model's summed squared error of its float outputs, over the original's summed squares.

        One model after the other and few images at a time: a session holds its weights twice, and activations.
        """
        feeds = pile_up(feeds_for(self.original, self.judges, JUDGED_AT_ONCE))
        true = pile_up({str(index): array for index, array in enumerate(b)} for b in _answers(self.original, feeds))
        signal = sum(_squares(pile[number]) for pile in true.values() for number in range(len(pile)))
        errors = [
            sum(
                _squares(true[str(index)][number].astype(np.float64) - array)
                for number, answers in enumerate(_answers(model, feeds))
                for index, array in enumerate(answers)
            )
            for model in models
        ]
        return [error / max(signal, 1e-30) for error in errors]


def _answers(model: Model, feeds: Mapping[str, Pile]) -> Iterator[list[np.ndarray]]:
    """Float outputs of each batch."""
    session = open_session(model)
    for number in range(max(map(len, feeds.values()))):
        found = run(session, {name: pile[number] for name, pile in feeds.items()})
        yield [array for array in found if array.dtype.kind == "f"]


def _squares(array: np.ndarray) -> float:
    return float(np.square(array, dtype=np.float64).sum())


def _take(array: np.ndarray, kept: np.ndarray | None, axis: int) -> np.ndarray:
    return array if kept is None else np.take(array, kept, axis)


def _places(array: np.ndarray, axis: int) -> tuple[int, ...]:
    """Its shape without the channels."""
    return tuple(np.delete(array.shape, axis))
