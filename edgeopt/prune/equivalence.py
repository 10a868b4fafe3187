"""The check that proves a pruning: the original with every removed slice set to zero computes the same.

"It still forwards" proves nothing. Both models run on onnxruntime with one seeded random batch; the model's outputs
are compared, and so is what every convolution and matrix product computes, channel by channel that is kept: an
error is seen where it is made, not after the layers behind it have drowned it.

A detector chooses boxes by comparing scores: where two are as good as equal, rounding decides, and all that follows
differs. So if everything agrees up to such a choice and something behind it does not, another input is tried, and one
has to agree throughout.

Two things are no plain masks. BatchNormalization's variance is left alone (zero over zero is no number), and
statistics of activations are over what is kept (`statistics`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from edgeopt.errors import StageFailed
from edgeopt.model import Model
from edgeopt.model.runtime import open_session, run
from edgeopt.prune.groups import Plan
from edgeopt.prune.statistics import restrict_statistics
from edgeopt.prune.trace import BATCH

__all__ = ["TOLERANCE", "Difference", "compare", "mask"]

TOLERANCE = 1e-4
"""Largest accepted relative difference; right prunings of float32 networks stay near 1e-6."""
CONTRACTIONS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
INNER_BYTES = 256 * 1000**2
"""Inner values up to this much in all are compared."""
CHOICES = frozenset({"Compress", "NonMaxSuppression", "NonZero", "TopK", "Unique"})
"""Operators whose result jumps when numbers that are as good as equal change places."""
INPUTS = 3
"""Inputs that are tried where what follows a choice differs."""


@dataclass(frozen=True)
class Difference:
    """How far two models are apart: max |a - b| / max |a| of the worst value, or of the first that is beyond the
    tolerance, and which one that is.
    """

    relative: float
    value: str
    found: str = ""
    """Why they could not be compared at all; empty when they could."""
    by_chance: bool = False
    """It shows only behind a choice that rounding may decide."""


def mask(model: Model, plan: Plan, kept: np.ndarray) -> Model:
    """The original model with every slice of the removed units set to zero."""
    masked = model.copy()
    graph = masked.graph.graph
    spared = {node.inputs[4] for node in graph if node.op_type == "BatchNormalization"}
    restrict_statistics(graph, plan, kept)
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
            value.const_value = ir.Tensor(array, name=name)
    return masked


def compare(model: Model, pruned: Model, plan: Plan, kept: np.ndarray, seed: int) -> Difference:
    """Run the masked original beside the pruned model. Never raises: what cannot run has `found` set.

    A model of any batch has to pass for another batch than the traced one too: a shape that was rewritten to a number
    may have the batch in it.
    """
    try:
        masked, inner = mask(model, plan, kept), _inner(pruned, plan)
    except Exception as error:  # whatever a malformed or unusual node makes numpy or Python raise
        return Difference(np.inf, "", f"cannot be masked ({type(error).__name__}: {' '.join(str(error).split())[:80]})")
    fixed = all(isinstance(info.shape[0], int) for info in model.inputs if info.shape)
    difference = Difference(np.inf, "")
    for number in range(INPUTS):
        batches = [BATCH] if fixed else [BATCH, BATCH + 1]
        feeds = [_feeds(model, plan, seed + number, batch) for batch in batches]
        difference = _compare(masked, pruned, plan, kept, inner, feeds)
        if not difference.by_chance:
            break
    return difference


def _compare(
    masked: Model, pruned: Model, plan: Plan, kept: np.ndarray, inner: list[str], feeds: list[dict[str, np.ndarray]]
) -> Difference:
    """The values called `inner` for the first of the feeds, and the outputs for all."""
    outputs = [info.name for info in masked.outputs]
    try:
        expected = _run(masked, inner, feeds)
        found = _run(pruned, inner, feeds)
    except StageFailed as error:
        return Difference(np.inf, _failed_at(pruned, error.found), error.found)
    worst = Difference(0.0, "")
    for number in range(len(feeds)):
        names = outputs if number else [*inner, *outputs]
        difference = _first_beyond(names, expected[number], found[number], plan, kept)
        worst = max(worst, difference, key=lambda one: one.relative)
        if worst.relative > TOLERANCE:
            break
    return replace(worst, by_chance=worst.relative > TOLERANCE and worst.value in _behind_choices(pruned))


Values = dict[str, np.ndarray]


def _first_beyond(names: list[str], expected: Values, found: Values, plan: Plan, kept: np.ndarray) -> Difference:
    """The first difference beyond the tolerance in graph order (what is behind it differs because of it), or the
    largest."""
    worst = Difference(0.0, "")
    for name in names:
        kept_part = _kept_part(name, expected[name], plan, kept)
        if kept_part.shape != found[name].shape:
            return Difference(np.inf, name, f"{name!r} has shape {found[name].shape}, not {kept_part.shape}")
        relative = _relative(kept_part, found[name])
        if not np.isfinite(relative):
            return Difference(np.inf, name, f"{name!r} is not finite, or not equal")
        if relative > worst.relative:
            worst = Difference(relative, name)
        if relative > TOLERANCE:
            break
    return worst


def _failed_at(pruned: Model, message: str) -> str:
    """What the node computes that onnxruntime names in its message; empty when it names none."""
    named = re.search(r"[Nn]ode(?: with name)?[.: ]*(?:Name)?:? ?'([^']+)'", message)
    nodes = pruned.graph.graph if named else ()
    return next((node.outputs[0].name or "" for node in nodes if named and node.name == named[1]), "")


def _behind_choices(model: Model) -> set[str]:
    """Values that depend on a choice between numbers."""
    behind: set[ir.Value | None] = set()
    for node in model.graph.graph:
        if node.op_type in CHOICES or not behind.isdisjoint(node.inputs):
            behind.update(node.outputs)
    return {value.name or "" for value in behind if value is not None}


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


def _run(model: Model, inner: list[str], feeds: list[dict[str, np.ndarray]]) -> list[Values]:
    """For each of the feeds, the outputs and the values called `inner`."""
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
    return [dict(zip(names, run(session, one), strict=True)) for one in feeds]


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
