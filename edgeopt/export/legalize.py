"""A model in the form that a tier takes: simplified, in its precision, batch and opset, and without
ballast.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgeopt.errors import StageFailed
from edgeopt.export.half import to_half
from edgeopt.export.islands import outside_islands
from edgeopt.export.overflow import risky_by_magnitude, risky_by_rule
from edgeopt.export.precision import precision_of
from edgeopt.model.child import NativeFailed, convert_opset
from edgeopt.model.model import Model
from edgeopt.model.shapes import infer_shapes
from edgeopt.model.simplify import random_feeds, same_outputs, simplify
from edgeopt.progress import SILENT, Progress
from edgeopt.tiers import Tier
from edgeopt.tiers.tier import Precision

__all__ = ["TOLERANCE", "legalize", "verify"]

TOLERANCE: dict[Precision, float] = {"fp32": 1e-4, "fp16": 2e-2, "int8": 2e-2}
"""max|difference| / max|reference| that the form may cost. fp16 rounds every intermediate result to 11 bits
(0.1 % in the deep networks tried); in int8 nothing is rounded again, but one value at a tie may take the
other level."""


NAMED = 5
"""Nodes named in one sentence."""


def legalize(
    model: Model,
    tier: Tier,
    *,
    feeds: Mapping[str, np.ndarray] | None = None,
    progress: Progress = SILENT,
) -> Model:
    """The model as `tier` takes it, with names (`strip` takes them out last); metadata is kept.

    A float model takes the tier's first float precision, with float32 inputs and outputs. An int8 model
    keeps its Q/DQ nodes as they are, and layers that were left in float take that precision too. An opset that
    the converter cannot reach is left at the model's own.
    `feeds` is one sample that the form is tried on, and by which nodes that float16 is too small for stay in
    float32; none: noise, and a rule. Raises StageFailed when the form computes something else.
    """
    by_rule = feeds is None
    feeds = feeds or random_feeds(model, 1)
    batch = None if tier.dynamic_batch else 1
    if precision_of(model) == "int8":
        legal = infer_shapes(model, batch)
    else:
        legal = simplify(model, batch=batch, progress=progress)
    legal = _to_opset(legal, tier.opset, feeds, progress)
    if precision_of(legal) == "fp32" and _float_precision(tier) == "fp16":
        legal = to_half(legal, _keep_float(legal, feeds, by_rule=by_rule, progress=progress))
    elif precision_of(legal) == "int8" and _float_precision(tier) == "fp16":
        legal = _halve_islands(legal, tier, feeds, by_rule=by_rule, progress=progress)
    verify(model, legal, tier, feeds)
    return legal


def _halve_islands(
    model: Model, tier: Tier, feeds: Mapping[str, np.ndarray], *, by_rule: bool, progress: Progress
) -> Model:
    """A Q/DQ model with the layers that it has in float in float16, or as it is where that changes its outputs."""
    outside = outside_islands(model)
    if outside is None:
        return model
    halved = to_half(model, outside | _keep_float(model, feeds, by_rule=by_rule, progress=progress))
    try:
        verify(model, halved, tier, feeds)
    except StageFailed as error:
        progress.warn(f"{error.found}; the layers left in float stay in float32")
        return model
    return halved


def _keep_float(model: Model, feeds: Mapping[str, np.ndarray], *, by_rule: bool, progress: Progress) -> set[str]:
    """First outputs of the nodes that stay in float32; those that `feeds` showed to be risky are told of."""
    risky = risky_by_magnitude(model, feeds)
    if risky:
        listed = ", ".join(f"{name} ({reason})" for name, reason in list(risky.items())[:NAMED])
        more = " ..." if len(risky) > NAMED else ""
        progress.warn(f"float16 is too small for {len(risky)} nodes, which stay in float32: {listed}{more}")
    return set(risky) | (set(risky_by_rule(model)) if by_rule else set())


def verify(before: Model, after: Model, tier: Tier, feeds: Mapping[str, np.ndarray]) -> None:
    """Run both on `feeds` with the tier's session options; StageFailed unless outputs are finite and agree."""
    from edgeopt.model.runtime import open_session, run

    expected, found = (run(open_session(model, threads=1, entries=tier.session), feeds) for model in (before, after))
    if not all(np.isfinite(output).all() for output in found if output.dtype.kind == "f"):
        raise StageFailed(
            f"the {precision_of(after)} form for tier {tier.name} gives NaN or infinite outputs",
            fix="a value overflows: quantize to int8, or choose a tier that accepts fp32",
        )
    tolerance = TOLERANCE[precision_of(after)]
    if not same_outputs(expected, found, tolerance):
        raise StageFailed(
            f"the {precision_of(after)} form for tier {tier.name} differs from the model "
            f"by more than {100 * tolerance:g} % of its largest output",
            fix="report this with the model: its form was not written",
        )


def _float_precision(tier: Tier) -> Precision | None:
    """What a model takes that no int8 stage touched; None when the tier wants int8 only."""
    return next((precision for precision in tier.precisions if precision != "int8"), None)


def _to_opset(model: Model, opset: int, feeds: Mapping[str, np.ndarray], progress: Progress) -> Model:
    """The model in that opset, or as it is when the converter cannot, or changes what it computes."""
    own = model.graph.opset_imports.get("", 0)
    if own == opset:
        return model
    try:
        converted = infer_shapes(convert_opset(model, opset), None)
        verify(model, converted, Tier(name="opset", description="", precisions=("fp32",)), feeds)
    except NativeFailed as error:
        progress.warn(f"{error}; the artifact stays at opset {own}")
        return model
    except StageFailed:
        progress.warn(f"opset {opset} is not reached without changing the model; the artifact stays at {own}")
        return model
    return converted
