"""The check that proves a pruning: the original with every removed slice set to zero computes the same.

"It still forwards" proves nothing. Both models run on onnxruntime with one seeded random batch; the model's outputs
are compared, and so is what every convolution and matrix product computes, channel by channel that is kept: an
error is seen where it is made, not after the layers behind it have drowned it.

Two normalisations are no plain masks. BatchNormalization's variance is left alone (zero over zero is no number). A
LayerNormalization that loses channels takes its statistics over those it keeps: in the masked model it reads only
these, and its result is spread out again with zeros between.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edgeopt.errors import StageFailed
from edgeopt.model import Model
from edgeopt.model.runtime import open_session, run
from edgeopt.prune.groups import Plan
from edgeopt.prune.trace import BATCH

__all__ = ["TOLERANCE", "Difference", "compare", "mask"]

TOLERANCE = 1e-4
"""Largest accepted relative difference; right prunings of float32 networks stay near 1e-6."""
CONTRACTIONS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
INNER_BYTES = 256 * 1000**2
"""Inner values up to this much in all are compared."""


@dataclass(frozen=True)
class Difference:
    """How far two models are apart: max |a - b| / max |a| of the worst value, or of the first that is beyond the
    tolerance, and which one that is.
    """

    relative: float
    value: str
    found: str = ""
    """Why they could not be compared at all; empty when they could."""


def mask(model: Model, plan: Plan, kept: np.ndarray) -> Model:
    """The original model with every slice of the removed units set to zero."""
    masked = model.copy()
    graph = masked.graph.graph
    spared = {node.inputs[4] for node in graph if node.op_type == "BatchNormalization"}
    for node in list(graph):
        if node.op_type in ("LayerNormalization", "RMSNormalization"):
            _normalize_kept(node, graph, plan, kept)
    for name, value in graph.initializers.items():
        blocks = plan.trace.labels.get(name, ())
        if not blocks or value.const_value is None or value in spared:
            continue
        array = original = value.const_value.numpy()
        for block in blocks:
            stays = plan.mask(block.ids, kept)
            if not stays.all():
                shape = [-1 if axis == block.dims[0] else 1 for axis in range(array.ndim)]
                array = np.where(stays.reshape(shape), array, array.dtype.type(0))
        if array is not original:
            value.const_value = ir.tensor(array, name=name)
    return masked


def compare(model: Model, pruned: Model, plan: Plan, kept: np.ndarray, seed: int) -> Difference:
    """Run the masked original beside the pruned model. Never raises: what cannot run has `found` set.

    A model of any batch has to pass for another batch than the traced one too: a shape that was rewritten to a number
    may have the batch in it.
    """
    masked = mask(model, plan, kept)
    difference = _compare(masked, pruned, plan, kept, _inner(pruned, plan), _feeds(model, plan, seed))
    if difference.relative > TOLERANCE or all(isinstance(info.shape[0], int) for info in model.inputs if info.shape):
        return difference
    other = _compare(masked, pruned, plan, kept, [], _feeds(model, plan, seed, batch=BATCH + 1))
    return max(difference, other, key=lambda found: found.relative)


def _compare(
    masked: Model, pruned: Model, plan: Plan, kept: np.ndarray, inner: list[str], feeds: dict[str, np.ndarray]
) -> Difference:
    """For one batch: the values called `inner`, and the outputs."""
    try:
        expected = _run(masked, inner, feeds)
        found = _run(pruned, inner, feeds)
    except StageFailed as error:
        return Difference(np.inf, "", error.found)
    worst = Difference(0.0, "")
    for name in [*inner, *(info.name for info in masked.outputs)]:
        wanted = expected[name]
        kept_part = _kept_part(name, wanted, plan, kept)
        if kept_part.shape != found[name].shape:
            return Difference(np.inf, name, f"{name!r} has shape {found[name].shape}, not {kept_part.shape}")
        relative = _relative(kept_part, found[name])
        if not np.isfinite(relative):
            return Difference(np.inf, name, f"{name!r} is not finite, or not equal")
        if relative > worst.relative:
            worst = Difference(relative, name)
        if relative > TOLERANCE:
            break  # in graph order: what is behind it differs because of it
    return worst


def _relative(wanted: np.ndarray, found: np.ndarray) -> float:
    if wanted.dtype.kind != "f":
        return 0.0 if np.array_equal(wanted, found) else np.inf
    scale = float(np.abs(wanted).max(initial=0.0))
    gap = float(np.abs(wanted - found).max(initial=0.0))
    return gap / scale if scale > 0 else gap


def _kept_part(name: str, array: np.ndarray, plan: Plan, kept: np.ndarray) -> np.ndarray:
    for block in plan.trace.labels.get(name, ()):
        stays = plan.mask(block.ids, kept)
        if not stays.all():
            array = np.take(array, np.flatnonzero(stays), block.dims[0])
    return array


def _inner(pruned: Model, plan: Plan) -> list[str]:
    """Results of convolutions and matrix products, as far as memory goes, evenly spread."""
    names = [
        node.outputs[0].name or ""
        for node in pruned.graph.graph
        if node.op_type in CONTRACTIONS
        and not node.outputs[0].is_graph_output()
        and node.outputs[0].name in plan.trace.shapes
        and all(len(block.dims) == 1 for block in plan.trace.labels.get(node.outputs[0].name or "", ()))
    ]
    total = sum(4 * int(np.prod(plan.trace.shapes[name])) for name in names)
    return names[:: max(1, -(-total // INNER_BYTES))]


def _run(model: Model, inner: list[str], feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    shown = model.copy()
    graph = shown.graph.graph
    wanted = set(inner)
    names = [value.name or "" for value in graph.outputs]
    for node in graph:
        for value in node.outputs:
            if value.name in wanted:
                value.dtype = value.dtype or ir.DataType.FLOAT
                graph.outputs.append(value)
                names.append(value.name)
    session = open_session(shown, optimize=False)
    results = run(session, feeds)
    return dict(zip(names, results, strict=True))


def _feeds(model: Model, plan: Plan, seed: int, batch: int = BATCH) -> dict[str, np.ndarray]:
    """`batch` samples where the batch is open: normal noise; zeros and ones for integers, which may be indices."""
    rng = np.random.default_rng(seed)
    feeds = {}
    for info in model.inputs:
        shape = plan.trace.shapes.get(info.name) or tuple(d if isinstance(d, int) else 2 for d in info.shape)
        if info.shape and not isinstance(info.shape[0], int):
            shape = (batch, *shape[1:])
        if info.dtype.kind == "f":
            feeds[info.name] = rng.standard_normal(shape).astype(info.dtype)
        else:
            feeds[info.name] = rng.integers(0, 2, shape).astype(info.dtype)
    return feeds


def _normalize_kept(node: ir.Node, graph: ir.Graph, plan: Plan, kept: np.ndarray) -> None:
    """x -> gather kept -> normalise with the kept scale and bias -> times a 0/1 matrix that spreads it out."""
    x, y = node.inputs[0], node.outputs[0]
    blocks = plan.trace.labels.get(y.name or "", ())  # x may be the result of a normalisation replaced before
    rank = len(plan.trace.shapes.get(y.name or "", ()))
    last = next((block for block in blocks if block.dims == (rank - 1,)), None)
    if x is None or last is None or plan.mask(last.ids, kept).all():
        return
    index = np.flatnonzero(plan.mask(last.ids, kept))
    indices = _constant(graph, f"{node.name}.kept", index)
    spread = np.zeros((len(index), last.ids.size), np.float32)
    spread[np.arange(len(index)), index] = 1
    gathers = [ir.node("Gather", [x, indices], {"axis": -1})]
    gathers += [ir.node("Gather", [value, indices], {"axis": -1}) for value in node.inputs[1:] if value]
    inner = ir.node(node.op_type, [g.outputs[0] for g in gathers], dict(node.attributes))
    outer = ir.node("MatMul", [inner.outputs[0], _constant(graph, f"{node.name}.spread", spread)])
    graph.insert_before(node, [*gathers, inner, outer])
    y.replace_all_uses_with(outer.outputs[0], replace_graph_outputs=True)
    graph.remove(node, safe=True)


def _constant(graph: ir.Graph, name: str, array: np.ndarray) -> ir.Value:
    value = ir.Value(name=name, const_value=ir.tensor(array, name=name))
    value.shape, value.dtype = ir.Shape(array.shape), ir.DataType.from_numpy(array.dtype)
    graph.register_initializer(value)
    return value
