"""How groups compare: who loses how much. A criterion ranks the units inside a group, a ranking the groups.

One Spec each; `weigh` turns the criterion's scores into scores that `choose` compares by its `rule`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import BeforeValidator, Field

from edgeopt.model import Model
from edgeopt.prune.criteria.scores import producing, sum_over
from edgeopt.prune.groups import Group, Plan
from edgeopt.prune.sensitivity import by_energy, marginal, measure
from edgeopt.spec import Spec
from edgeopt.stage import Context

__all__ = ["Global", "Local", "Ranking", "Sensitivity", "Weighed"]

Share = Callable[[np.ndarray], float]
"""kept units -> what is left of the target's quantity, as a fraction."""


@dataclass(frozen=True, eq=False)
class Weighed:
    """Scores [units] for each group, and what there is to say about them, JSON-ready."""

    scores: list[np.ndarray]
    facts: dict[str, Any]


class Local(Spec):
    """The same share of every group."""

    kind: Literal["local"] = "local"
    rule: ClassVar[Literal["local", "global"]] = "local"

    def weigh(self, model: Model, plan: Plan, scores: list[np.ndarray], left: Share, context: Context) -> Weighed:
        """The scores as they are."""
        return Weighed(scores, {})


class Global(Spec):
    """One threshold for the scores of all groups."""

    kind: Literal["global"] = "global"
    rule: ClassVar[Literal["local", "global"]] = "global"

    def weigh(self, model: Model, plan: Plan, scores: list[np.ndarray], left: Share, context: Context) -> Weighed:
        """The scores as they are."""
        return Weighed(scores, {})


class Sensitivity(Spec):
    """One threshold for the measured loss over what is saved: groups that matter keep more."""

    kind: Literal["sensitivity"] = "sensitivity"
    rule: ClassVar[Literal["local", "global"]] = "global"
    images: int = Field(128, ge=1, description="calibration images that each measurement uses")
    seconds: float = Field(60.0, gt=0, description="for all measurements; groups not reached count as average")

    def weigh(self, model: Model, plan: Plan, scores: list[np.ndarray], left: Share, context: Context) -> Weighed:
        """Measured loss that each unit adds, over what it saves. Without images, by the weights' energy, with a
        warning.
        """
        if context.data is None:
            context.progress.warn("sensitivity without images: from the energy of the weights alone")
            curves = by_energy(plan, _energies(model, plan.groups), scores)
        else:
            curves = measure(model, plan, scores, context, images=self.images, seconds=self.seconds)
        on = "weights" if context.data is None else f"{min(self.images, len(context.data.calibration))} images"
        facts = {"sensitivity": [curve.facts() for curve in curves], "sensitivity_measured_on": on}
        return Weighed(marginal(curves, scores, [_saving(plan, group, left) for group in plan.groups]), facts)


def _by_name(value: Any) -> Any:
    return {"kind": value} if isinstance(value, str) else value


Ranking = Annotated[
    Local | Global | Sensitivity,
    Field(discriminator="kind"),
    BeforeValidator(
        _by_name, json_schema_input_type=Local | Global | Sensitivity | Literal["local", "global", "sensitivity"]
    ),
]


def _energies(model: Model, groups: Sequence[Group]) -> list[np.ndarray]:
    """Squared norm of what produces each unit's channels."""
    weights = model.weights()
    return [sum_over(producing(group, weights), weights, np.square, len(group)) for group in groups]


def _saving(plan: Plan, group: Group, left: Share) -> float:
    """What one unit saves, on average over half of the group."""
    count = max(1, len(group) // 2)
    kept = plan.everything()
    kept[group.units[:count]] = False
    return (1 - left(kept)) / count
