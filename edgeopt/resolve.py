"""References to models that are not there yet, made before the stage runs that names them.

A student by `shrink` comes out of pruning's machinery, a network with `fit` is weighed as quantization and export would
make it. Method packages know nothing of one another: so it is done here, and a stage is handed plain references.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from edgeopt.model import Model
from edgeopt.model.reference import ModelRef, Shrink
from edgeopt.sizing import Ship, fit_width
from edgeopt.stage import Context, Stage
from edgeopt.tiers import Tier, load_tier

__all__ = ["Shipping", "resolve", "resolve_model"]

AnyStage = TypeVar("AnyStage", bound=Stage)


@dataclass(frozen=True)
class Shipping:
    """How a run would ship a model."""

    first: Tier
    """The tier that a `fit` without one means."""
    of: Callable[[Tier], Ship]


def resolve(stage: AnyStage, model: Model, context: Context, shipping: Shipping) -> tuple[AnyStage, dict[str, Any]]:
    """The stage with every reference to a model that is there, and what was done for those that were not.

    `model` is what comes in. Students that were made lie in `context.scratch`, which has to be given. Raises
    UsageError, StageFailed.
    """
    made: dict[str, Any] = {}
    facts: dict[str, Any] = {}
    for name in type(stage).model_fields:
        match getattr(stage, name):
            case Shrink() as settings:
                made[name], facts[name] = _shrunk(settings, name, model, context)
            case ModelRef(fit=room) as reference if room is not None:
                made[name], facts[name] = resolve_model(reference, context, shipping)
    return stage.model_copy(update=made), facts


def resolve_model(reference: ModelRef, context: Context, shipping: Shipping) -> tuple[ModelRef, dict[str, Any]]:
    """`reference` with its width chosen where it is to fit, and what that costs. Raises UsageError."""
    room = reference.fit
    if room is None:
        return reference, {}
    tier = shipping.first if room.tier is None else load_tier(room.tier)
    return fit_width(reference, tier, shipping.of(tier), seed=context.seed, progress=context.progress)


def _shrunk(settings: Shrink, name: str, model: Model, context: Context) -> tuple[ModelRef, dict[str, Any]]:
    from edgeopt.model.load import save_model
    from edgeopt.prune.shrink import shrink

    result = shrink(model, settings, context)
    assert context.scratch is not None
    context.scratch.mkdir(parents=True, exist_ok=True)
    path = context.scratch / f"{name}.onnx"
    save_model(result.model, path)
    return ModelRef(source=str(path)), result.facts
