"""Quantize: the stage that makes a float model INT8 for one tier."""

from __future__ import annotations

import time
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from edgeopt.data import Split
from edgeopt.errors import UsageError
from edgeopt.model.model import Model
from edgeopt.quantize.build import Builder, Built, wanted_tensors
from edgeopt.quantize.calibrators import Calibrator, MinMax
from edgeopt.quantize.eligible import find_excluded
from edgeopt.quantize.observe import Observation, observe, suggest_batch
from edgeopt.quantize.prepare import prepare
from edgeopt.quantize.verify import require_integers
from edgeopt.quantize.weights import MaxScale, WeightScale
from edgeopt.stage import Context, Stage, StageResult
from edgeopt.tiers import Tier, load_tier

__all__ = ["Quantize"]


class Quantize(Stage):
    """Post-training quantization to INT8, written as Q/DQ pairs where the tier's runtime fuses them.

    Source of the scheme: Jacob et al. 2018, arXiv:1712.05877; ONNX QuantizeLinear and DequantizeLinear.
    """

    per_tier: ClassVar[bool] = True

    kind: Literal["quantize"] = "quantize"
    calibrator: Calibrator = Field(MinMax(), description="how the range of an activation is chosen")
    weights: WeightScale = Field(MaxScale(), description="how the scale of a weight is chosen")
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
        _refuse_unfit(model)
        prepared = prepare(model, tier, context)
        excluded = find_excluded(list(prepared.graph.graph), tier, self.exclude)
        started = time.perf_counter()
        seen = self._observe(prepared, tier, images, context)
        seconds = time.perf_counter() - started
        builder = Builder(prepared, tier, seen.histograms, self.calibrator, self.weights, frozenset(excluded))
        built = builder.build()
        if not built.plan.weights:
            context.progress.warn("no layer with constant weights was found: the model stays as large as it is")
        if tier.integer_only:
            require_integers(built.model, tier)
        return StageResult(built.model, self._facts(built, seen) | {"observation_seconds": round(seconds, 3)})

    def _observe(self, model: Model, tier: Tier, images: Split, context: Context) -> Observation:
        tensors = wanted_tensors(model, tier)
        batch_size = self.batch_size or suggest_batch(model, tensors)
        return observe(
            model,
            tensors,
            (batch.x for batch in images.batches(batch_size)),
            counts=self.calibrator.needs_counts,
            total=len(images),
            progress=context.progress,
        )

    def _facts(self, built: Built, seen: Observation) -> dict[str, Any]:
        clipped = [_clipped_share(built, group) for group in built.grids]
        return {
            "calibrator": self.calibrator.model_dump(),
            "samples": seen.images,
            "quantized_nodes": built.plan.count_by_operator(),
            "float_nodes": built.plan.floating,
            "activation_bytes_observed": seen.bytes_seen,
            "clipped_share_mean": float(np.mean(clipped)) if clipped else 0.0,
            "clipped_share_max": max(clipped, default=0.0),
        }


def _refuse_unfit(model: Model) -> None:
    """Raise UsageError for a model that this stage does not take."""
    if len(model.inputs) != 1:
        names = ", ".join(info.name for info in model.inputs)
        raise UsageError(
            f"the model has {len(model.inputs)} inputs ({names}); calibration feeds one",
            fix="make the others constants before quantizing",
        )


def _clipped_share(built: Built, group: str) -> float:
    """Share of the counted values that are more than half a step beyond the grid's ends."""
    grid = built.grids[group]
    margin = float(grid.scale) / 2
    return built.histograms[group].share_outside(grid.range.low - margin, grid.range.high + margin)
