"""Quantize: the stage that makes a float model INT8 for one tier.

The story, each step of which has a file of its own: prepare the float graph (`prepare`), rewrite it into an equal one
that loses less in integers (`transforms`), see in one pass what every tensor holds (`observe`), decide what runs in
integers, by rules (`placement`), by measured speed (`search`), by accuracy (`budget`), write the Q/DQ graph (`build`),
find better constants for it (`refinements`, `qat`), and give it the form that its runtime likes (`speed`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Collection
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from edgeopt.errors import StageFailed, UsageError
from edgeopt.model.model import Model
from edgeopt.model.providers import Device, choose_providers
from edgeopt.quantize.bias import BiasCorrection
from edgeopt.quantize.budget import meet_budget
from edgeopt.quantize.build import Builder, Built, wanted_tensors
from edgeopt.quantize.calibrators import Calibrator, MinMax, Mse
from edgeopt.quantize.dynamic import quantize_dynamic
from edgeopt.quantize.eligible import find_excluded
from edgeopt.quantize.equalize import CrossLayer
from edgeopt.quantize.memory import peak_rss_bytes, plan_memory, room_bytes, rss_bytes
from edgeopt.quantize.nearness import nearness
from edgeopt.quantize.observe import Observation, not_finite, observe
from edgeopt.quantize.pack import pack_weights
from edgeopt.quantize.prepare import prepare
from edgeopt.quantize.presets import DEFAULT, PRESETS, PresetName, fill_preset
from edgeopt.quantize.qat import Qat
from edgeopt.quantize.reconstruct import Reconstruct
from edgeopt.quantize.samples import Samples, samples_of
from edgeopt.quantize.search import find_fast
from edgeopt.quantize.sensitivity import layers_sqnr_db
from edgeopt.quantize.smooth import SmoothQuant
from edgeopt.quantize.speed import cheapest, finish
from edgeopt.quantize.verify import require_integers, unfused
from edgeopt.quantize.weight_only import quantize_weights_only
from edgeopt.quantize.weights import MseScale, WeightScale
from edgeopt.stage import Context, Stage, StageResult
from edgeopt.tiers import Tier, load_tier
from edgeopt.units import Bytes, Points, format_bytes

__all__ = ["Quantize", "Refinement", "Transform"]

Transform = Annotated[CrossLayer | SmoothQuant, Field(discriminator="kind")]
"""Float graph -> an equal one that loses less in integers: `transform(model, samples, context, room) -> StageResult`;
`least_bytes(model, samples)` of memory is the least room it takes."""
Refinement = Annotated[BiasCorrection | Reconstruct, Field(discriminator="kind")]
"""Q/DQ graph -> the same with better constants: `refine(model, built, samples, context, room) -> StageResult`, and
`least_bytes` likewise."""

PRESET_HELP = "; ".join(f"{name}: {preset.description}" for name, preset in PRESETS.items())
JUDGED = 32
"""Samples that no refinement sees: what brings the outputs on them nearer to the float model's is kept."""
PACKED_SHARE = 0.35
"""Of the float file's bytes: float layers are stored in fewer bytes until the file is that small."""


class Quantize(Stage):
    """INT8, as Q/DQ pairs where the tier's runtime fuses them.

    Source of the scheme: Jacob et al. 2018, arXiv:1712.05877; ONNX QuantizeLinear and DequantizeLinear.
    """

    per_tier: ClassVar[bool] = True

    kind: Literal["quantize"] = "quantize"
    preset: PresetName = Field(DEFAULT, description=f"sets what is not given: {PRESET_HELP}")
    activations: Literal["static", "dynamic", "float"] = Field(
        "static",
        description="static: int8 with calibrated ranges; dynamic: ranges found at run time, for transformers, without "
        "data; float: only the weights of large matrices are int8",
    )
    calibrator: Calibrator = Field(Mse(), description="how the range of an activation is chosen")
    rivals: tuple[Calibrator, ...] = Field(
        (), description="calibrators tried beside it: the one with outputs nearest to float is taken"
    )
    weight_scale: WeightScale = Field(MseScale(), description="how the scale of a weight is chosen")
    transforms: tuple[Transform, ...] = Field((), description="changes of the float graph, which stays equal")
    refinements: tuple[Refinement, ...] = Field((), description="changes of the integer graph's constants, in order")
    samples: int = Field(256, ge=1, description="calibration samples")
    batch_size: int | None = Field(
        None, ge=1, description="calibration samples per run; none: as many as keep memory low. The result is the same"
    )
    max_memory: Bytes | None = Field(
        None,
        description="of the process while it observes, transforms and refines, such as 700MB; of the latter two, what "
        "does not fit is left out",
    )
    device: Device = Field("auto", description="where calibration runs; auto: on a GPU if onnxruntime offers one")
    exclude: tuple[str, ...] = Field(
        (), description="nodes kept in float: names, or regular expressions that match a whole name"
    )
    speed: Literal["integers", "rules", "measured"] = Field(
        "rules",
        description="where integers stand on tiers that run here: wherever there is a kernel; where known costs say "
        "that they pay; or where timing on this machine does. Layers left in float for speed are stored small",
    )
    max_drop: Points | None = Field(
        None, description="keep the fewest layers in float that lose at most so many points, such as 0.5pt"
    )
    time_budget: float = Field(
        600.0, gt=0, description="seconds for each search, that of `speed` and that of `max_drop`"
    )
    qat: Qat | None = Field(None, description="quantization-aware training; a number is its epochs")

    @model_validator(mode="before")
    @classmethod
    def _fill_preset(cls, value: Any) -> Any:
        return fill_preset(value) if isinstance(value, dict) else value

    def wanted(self, tier: Tier) -> bool:
        """Where the tier takes int8."""
        return "int8" in tier.precisions

    def apply(self, model: Model, context: Context) -> StageResult:
        """The quantized model for `context.tier` ("any" when there is none), and what was done.

        Raises UsageError for an already quantized model, weights that are not finite, samples that do not fit its
        inputs, settings that the tier cannot have, or an `exclude` that fits nothing; StageFailed when the tier wants
        integers and the graph has an operator without an integer kernel, or when activations are not finite.
        """
        tier = context.tier or load_tier("any")
        if self.activations == "static":
            return self._quantize(model, tier, context)
        prepared = prepare(model, tier, context)
        excluded = find_excluded(list(prepared.graph.graph), tier, self.exclude)
        work = quantize_dynamic if self.activations == "dynamic" else quantize_weights_only
        return work(prepared, tier, context, method=self.weight_scale, excluded=excluded)

    def draft(self) -> Quantize:
        """Ranges from a few samples, and nothing that only makes the numbers better."""
        quick = {"calibrator": MinMax(), "rivals": (), "refinements": (), "max_drop": None, "qat": None, "samples": 16}
        return self.model_copy(update=quick | ({"speed": "rules"} if self.speed == "measured" else {}))

    def learn(self, model: Model, tier: Tier, context: Context) -> tuple[Builder, Samples, dict[str, Any]]:
        """Prepare and transform the model and see what each tensor holds: any placement can be built from that."""
        data = context.need_data(self.kind)
        prepared = prepare(model, tier, context)
        samples = samples_of(prepared, data.calibration, self.samples, context.seed)
        facts: dict[str, Any] = {}
        for transform in self.transforms:
            room = self._room(transform, prepared, samples, context)
            if room > 0:
                result = transform.transform(prepared, samples, context, room)
                prepared, facts[transform.kind] = result.model, result.facts
        excluded = set(find_excluded(list(prepared.graph.graph), tier, self.exclude))
        seen, observed = self._observe(prepared, tier, samples, context)
        excluded |= _touching(prepared, tier, seen.not_finite, context)
        builder = Builder(prepared, tier, seen.histograms, self.calibrator, self.weight_scale, frozenset(excluded))
        return builder, samples, facts | observed

    def _room(self, step: Transform | Refinement, model: Model, samples: Samples, context: Context) -> float:
        """Bytes of memory that a step may take; 0, and a warning, where it takes more than there are."""
        room = room_bytes(self.max_memory)
        least = 0 if room == math.inf else step.least_bytes(model, samples)
        if least <= max(room, 0):  # 0: there is nothing for it to do
            return max(room, 1)
        context.progress.warn(
            f"{step.kind} is left out: it takes {format_bytes(least)} of memory beside the {format_bytes(rss_bytes())} "
            f"that are held, over the limit of {format_bytes(self.max_memory or 0)}"
        )
        return 0.0

    def _observe(
        self, model: Model, tier: Tier, samples: Samples, context: Context
    ) -> tuple[Observation, dict[str, Any]]:
        """What the tensors hold, and how that was seen."""
        started = time.perf_counter()
        tensors, counts = wanted_tensors(model, tier), any(c.needs_counts for c in (self.calibrator, *self.rivals))
        providers = choose_providers(self.device, context.progress)
        memory = plan_memory(
            model,
            tensors,
            samples,
            counts=counts,
            batch_size=self.batch_size,
            max_memory=self.max_memory,
            providers=providers,
        )
        seen = observe(
            model,
            tensors,
            samples.batches(memory.batch_size),
            counts=counts,
            total=len(samples),
            progress=context.progress,
            providers=providers,
            workers=memory.workers,
        )
        return seen, {
            "calibrator": self.calibrator.model_dump(),
            "samples": seen.images,
            "activation_bytes_observed": seen.bytes_seen,
            "predicted_memory_bytes": memory.predicted_bytes,
            "peak_memory_bytes": peak_rss_bytes(),
            "observation_seconds": round(time.perf_counter() - started, 3),
        }

    def _quantize(self, model: Model, tier: Tier, context: Context) -> StageResult:
        builder, samples, facts = self.learn(model, tier, context)
        slow = self._find_slow(builder, samples, context, facts)
        budget = self._meet_budget(builder.leaving(slow), samples, context, facts)
        fitted_on, judged_on = samples.split_off(JUDGED)
        built = self._choose_ranges(builder.leaving(slow | budget), judged_on, facts)
        if not built.plan.weights:
            context.progress.warn(_nothing_in_integers(slow))
        facts |= _describe(built)
        if builder.tier.measured_here and self.speed != "measured":
            facts["may_be_faster"] = "quantize with `speed: measured`"
        for refinement in self.refinements:
            room = self._room(refinement, builder.model, fitted_on, context)
            if room <= 0:
                continue
            result = refinement.refine(builder.model, built, fitted_on, context, room)
            found = nearness(builder.model, built.model, result.model, samples=judged_on, tier=tier)
            gain = found[1].decibels - found[0].decibels
            facts[refinement.kind] = result.facts | {"kept": gain > 0, "gain_db": round(gain, 2)}
            built = built.with_model(result.model) if gain > 0 else built
        if self.qat is not None:
            result = self.qat.train(builder.model, built, context)
            built, facts["qat"] = built.with_model(result.model), result.facts
        if self.max_memory is None:  # every layer's output of one sample, twice
            facts["layers_sqnr_db"] = layers_sqnr_db(builder.model, built, judged_on)
        packed = _finish(built, tier, slow - budget, round(PACKED_SHARE * model.size_bytes), facts)
        return StageResult(packed, facts, unfinished=facts.get("budget", {}).get("stopped_by") == "ctrl_c")

    def _choose_ranges(self, builder: Builder, samples: Samples, facts: dict[str, Any]) -> Built:
        """The Q/DQ model by the calibrator, or by the one of its rivals whose outputs are nearer to float."""
        if not self.rivals:
            return builder.build()
        choices = [replace(builder, calibrator=calibrator) for calibrator in (self.calibrator, *self.rivals)]
        models = [choice.build() for choice in choices]
        found = nearness(builder.model, *(built.model for built in models), samples=samples, tier=builder.tier)
        best = int(np.argmax([near.decibels for near in found]))
        facts["calibrator"] = choices[best].calibrator.model_dump()
        facts["calibrators_sqnr_db"] = {
            choice.calibrator.kind: [round(near.together_db, 2), round(near.apart_db, 2)]
            for choice, near in zip(choices, found, strict=True)
        }
        return models[best]

    def _find_slow(self, builder: Builder, samples: Samples, context: Context, facts: dict[str, Any]) -> frozenset[str]:
        """Nodes that are faster in float, on a tier that runs here."""
        if self.speed == "measured":
            _refuse_elsewhere(builder.tier)
            found = find_fast(builder, samples, context, time_budget=self.time_budget)
            facts["speed"] = found.facts
            return found.floating
        if self.speed == "rules" and builder.tier.measured_here:
            slow = cheapest(builder.model, builder.candidates())
            # in a network so small that no integer layer pays, int8 was asked for all the same
            return slow if builder.plan(slow).weights else frozenset()
        return frozenset()

    def _meet_budget(
        self, builder: Builder, samples: Samples, context: Context, facts: dict[str, Any]
    ) -> frozenset[str]:
        """Nodes that have to stay in float for the accuracy asked for."""
        if self.max_drop is None:
            return frozenset()
        found = meet_budget(builder, samples, max_drop=self.max_drop, time_budget=self.time_budget, context=context)
        facts["budget"] = found.facts
        return found.floating


def _touching(model: Model, tier: Tier, tensors: Collection[str], context: Context) -> set[str]:
    """Nodes that read or make one of these `tensors`, which no range can hold, with a warning that they stay in float.

    Raises StageFailed on a tier that takes nothing but integers.
    """
    if not tensors:
        return set()
    first, more = next(iter(tensors)), f" and {len(tensors) - 1} more" if len(tensors) > 1 else ""
    if tier.integer_only:
        raise StageFailed(not_finite(first), where=f"tier {tier.name}", fix="look at the layer that makes it")
    context.progress.warn(f"{not_finite(first)}{more}, though the outputs do not: what touches them stays in float")
    return {
        node.name or ""
        for node in model.graph.graph
        if any(value is not None and value.name in tensors for value in (*node.inputs, *node.outputs))
    }


def _nothing_in_integers(slow: frozenset[str]) -> str:
    if slow:
        return "no layer is faster in integers on this machine: all stay float, and their weights are stored small"
    return "no layer with constant weights was found: the model stays as large as it is"


def _refuse_elsewhere(tier: Tier) -> None:
    """Raise UsageError for a tier whose speed cannot be measured on this machine."""
    if not tier.measured_here:
        raise UsageError(
            f"tier {tier.name} does not run on this machine's onnxruntime, so nothing can be measured for it",
            where="speed",
            fix="leave `speed: rules`, which are the tier's own",
        )


def _finish(built: Built, tier: Tier, packed: Collection[str], most_bytes: int, facts: dict[str, Any]) -> Model:
    """The model in the form that the tier's runtime likes, checked for what that runtime leaves in float."""
    if tier.integer_only:
        require_integers(built.model, tier)
    if not tier.measured_here:
        return built.model
    facts["unfused"] = unfused(built.model, tier.session, built.plan.integer)
    return pack_weights(finish(built.model), packed, most_bytes=most_bytes)


def _describe(built: Built) -> dict[str, Any]:
    clipped = [_clipped_share(built, group) for group in built.grids]
    return {
        "quantized_nodes": built.plan.count_by_operator(),
        "float_nodes": built.plan.floating,
        "clipped_share_mean": float(np.mean(clipped)) if clipped else 0.0,
        "clipped_share_max": max(clipped, default=0.0),
    }


def _clipped_share(built: Built, group: str) -> float:
    """Share of the counted values that are more than half a step beyond the grid's ends."""
    grid = built.grids[group]
    margin = float(grid.scale) / 2
    return built.histograms[group].share_outside(grid.range.low - margin, grid.range.high + margin)
