"""Quantize: the stage that makes a float model INT8 for one tier."""

from __future__ import annotations

import time
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from edgeopt.data import Split
from edgeopt.errors import UsageError
from edgeopt.model.model import Model
from edgeopt.model.quantized import refuse_quantized
from edgeopt.quantize.calibrators import Calibrator, MinMax
from edgeopt.quantize.histogram import Histogram
from edgeopt.quantize.insert import insert
from edgeopt.quantize.observe import Observation, observe, suggest_batch
from edgeopt.quantize.placement import plan
from edgeopt.quantize.plan import Plan
from edgeopt.quantize.ranges import Grid, make_grid
from edgeopt.quantize.verify import require_integers
from edgeopt.stage import Context, Stage, StageResult
from edgeopt.tiers import Tier, load_tier

__all__ = ["Quantize"]

LOWEST_OPSET = 13
"""The first in which DequantizeLinear has a scale for each channel."""


class Quantize(Stage):
    """Post-training quantization to INT8, written as Q/DQ pairs where the tier's runtime fuses them.

    Source of the scheme: Jacob et al. 2018, arXiv:1712.05877; ONNX QuantizeLinear and DequantizeLinear.
    """

    per_tier: ClassVar[bool] = True

    kind: Literal["quantize"] = "quantize"
    calibrator: Calibrator = Field(MinMax(), description="how the range of an activation is chosen")
    samples: int = Field(256, ge=1, description="calibration images")
    batch_size: int | None = Field(
        None, ge=1, description="calibration images per run; none: as many as keep memory low. The result is the same"
    )
    exclude: tuple[str, ...] = Field(
        (), description="nodes kept in float: names, or regular expressions that match a whole name"
    )

    def wanted(self, tier: Tier) -> bool:
        """Where the tier takes int8."""
        return "int8" in tier.precisions

    def apply(self, model: Model, context: Context) -> StageResult:
        """The Q/DQ model for `context.tier` ("any" when there is none), and what was done.

        Raises UsageError for an already quantized model, a model with several inputs, weights that are not finite, or
        an `exclude` that fits nothing; StageFailed when the tier wants integers and the graph has an operator without
        an integer kernel, or when activations are not finite.
        """
        images = context.need_data(self.kind).calibration.sample(self.samples, context.seed)
        tier = context.tier or load_tier("any")
        prepared = _prepare(model, tier, context)
        decided = plan(prepared, tier, self.exclude)
        if not decided.weights:
            context.progress.warn("no layer with constant weights was found: the model stays as large as it is")
        started = time.perf_counter()
        seen = self._observe(prepared, decided, images, context)
        seconds = time.perf_counter() - started
        histograms = _merge(decided, seen)
        grids = self._choose_grids(histograms, tier)
        quantized = insert(prepared, decided, grids, tier.placement)
        if tier.integer_only:
            require_integers(quantized, tier)
        facts = self._facts(decided, seen, histograms, grids) | {"observation_seconds": round(seconds, 3)}
        return StageResult(quantized, facts)

    def _observe(self, model: Model, decided: Plan, images: Split, context: Context) -> Observation:
        batch_size = self.batch_size or suggest_batch(model, decided.observed)
        return observe(
            model,
            decided.observed,
            (batch.x for batch in images.batches(batch_size)),
            counts=self.calibrator.needs_counts,
            total=len(images),
            progress=context.progress,
        )

    def _choose_grids(self, histograms: dict[str, Histogram], tier: Tier) -> dict[str, Grid]:
        """Group -> scale and zero point."""
        symmetric = tier.placement.activations == "symmetric"
        kind = tier.placement.activation_type
        return {
            group: make_grid(
                self.calibrator.choose_range(histogram, symmetric=symmetric), symmetric=symmetric, dtype=kind
            )
            for group, histogram in histograms.items()
        }

    def _facts(
        self, decided: Plan, seen: Observation, histograms: dict[str, Histogram], grids: dict[str, Grid]
    ) -> dict[str, Any]:
        clipped = [_clipped_share(histogram, grids[group]) for group, histogram in histograms.items()]
        return {
            "calibrator": self.calibrator.model_dump(),
            "samples": seen.images,
            "quantized_nodes": decided.count_by_operator(),
            "float_nodes": decided.floating,
            "activation_bytes_observed": seen.bytes_seen,
            "clipped_share_mean": float(np.mean(clipped)) if clipped else 0.0,
            "clipped_share_max": max(clipped, default=0.0),
        }


def _prepare(model: Model, tier: Tier, context: Context) -> Model:
    """The model as it will be deployed, still in float: checked, simplified, opset 13 or newer, dtypes inferred.

    What is left of BatchNormalization has no integer kernel anywhere; Mul and Add have, where nothing may stay float.
    """
    from edgeopt.model.child import convert_opset
    from edgeopt.model.shapes import infer_shapes
    from edgeopt.model.simplify import simplify, split_batchnorm

    _refuse_unfit(model)
    batch = None if tier.dynamic_batch else 1
    simple = simplify(model, batch=batch, progress=context.progress)
    if simple.graph.opset_imports.get("", LOWEST_OPSET) < LOWEST_OPSET:
        simple = convert_opset(simple, LOWEST_OPSET)
    shaped = infer_shapes(simple, batch)
    return split_batchnorm(shaped) if tier.integer_only else shaped


def _refuse_unfit(model: Model) -> None:
    """Raise UsageError for a model that this stage does not take."""
    refuse_quantized(model)
    if len(model.inputs) != 1:
        names = ", ".join(info.name for info in model.inputs)
        raise UsageError(
            f"the model has {len(model.inputs)} inputs ({names}); calibration feeds one",
            fix="make the others constants before quantizing",
        )
    for name, array in model.weights().items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise UsageError(f"weight {name!r} holds NaN or infinite values", fix="take an earlier checkpoint")


def _clipped_share(histogram: Histogram, grid: Grid) -> float:
    """Share of the counted values that are more than half a step beyond the grid's ends."""
    margin = float(grid.scale) / 2
    return histogram.share_outside(grid.range.low - margin, grid.range.high + margin)


def _merge(decided: Plan, seen: Observation) -> dict[str, Histogram]:
    """Group -> one histogram of all that its tensors hold."""
    merged: dict[str, Histogram] = {}
    for group, tensors in decided.sources.items():
        merged[group] = Histogram()
        for tensor in tensors:
            merged[group].merge(seen.histograms[tensor])
    return merged
