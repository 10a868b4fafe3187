"""How groups compare: who loses how much. A criterion ranks the units inside a group, a ranking the groups.

One Spec each; `curves` is what has to be measured once, and `weigh` turns the criterion's scores into scores that
`choose` compares by its `rule`.
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
from edgeopt.prune.sensitivity import Curve, affordable, by_energy, marginal, measure
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

    def curves(self, model: Model, plan: Plan, scores: list[np.ndarray], context: Context) -> list[Curve]:
        """Nothing is measured."""
        return [Curve(group.name, ()) for group in plan.groups]

    def weigh(self, plan: Plan, scores: list[np.ndarray], curves: list[Curve], left: Share) -> Weighed:
        """The scores as they are."""
        return Weighed(scores, {})


class Global(Spec):
    """One threshold for the scores of all groups."""

    kind: Literal["global"] = "global"
    rule: ClassVar[Literal["local", "global"]] = "global"

    def curves(self, model: Model, plan: Plan, scores: list[np.ndarray], context: Context) -> list[Curve]:
        """Nothing is measured."""
        return [Curve(group.name, ()) for group in plan.groups]

    def weigh(self, plan: Plan, scores: list[np.ndarray], curves: list[Curve], left: Share) -> Weighed:
        """The scores as they are."""
        return Weighed(scores, {})


class Sensitivity(Spec):
    """One threshold for the measured loss over what is saved: groups that matter keep more."""

    kind: Literal["sensitivity"] = "sensitivity"
    rule: ClassVar[Literal["local", "global"]] = "global"
    images: int = Field(
        128, ge=1, description="calibration images that each measurement uses, fewer where the network is large"
    )
    seconds: float = Field(60.0, gt=0, description="for all measurements; groups not reached count as average")

    def curves(self, model: Model, plan: Plan, scores: list[np.ndarray], context: Context) -> list[Curve]:
        """What each group's pruning alone costs, measured; without images by the weights' energy, with a warning."""
        if context.data is None:
            context.progress.warn("sensitivity without images: from the energy of the weights alone")
            return by_energy(plan, _energies(model, plan.groups), scores)
        images = affordable(model, len(plan.groups), self.images)
        return measure(model, plan, scores, context, images=images, seconds=self.seconds)

    def weigh(self, plan: Plan, scores: list[np.ndarray], curves: list[Curve], left: Share) -> Weighed:
        """The loss that each unit adds, over what it saves."""
        savings = [_saving(plan, group, left) for group in plan.groups]
        on = curves[0].measured_on if curves else ""
        facts = {"sensitivity": [curve.facts() for curve in curves], "sensitivity_measured_on": on}
        return Weighed(marginal(curves, scores, savings), facts)


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
