"""Stage: what every step of a recipe is, and what it is handed.

A stage takes a model and hands back a new one with the facts of what it did. It never changes the
model it was given, and it writes nothing but checkpoints in `context.scratch`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from edgeopt.data import Data
from edgeopt.errors import UsageError
from edgeopt.model import Model
from edgeopt.model.reference import ModelRef, Shrink
from edgeopt.progress import SILENT, Progress
from edgeopt.spec import Spec
from edgeopt.tiers import Tier

__all__ = ["Context", "Stage", "StageResult"]


@dataclass(frozen=True)
class Context:
    """What a stage may use besides the model."""

    data: Data | None = None
    seed: int = 0
    progress: Progress = SILENT
    scratch: Path | None = None
    """Folder for checkpoints that let an interrupted stage go on; None: keep none."""
    tier: Tier | None = None
    """The tier a per-tier stage works for; None in a shared stage."""
    width_multiple: int = 1
    """Channel counts that every tier of the run likes: pruned widths are rounded up to it."""
    artifact: Callable[[Model], StageResult] | None = None
    """What the run's first tier would ship of a model, its limits aside, and the export's facts; None: no run."""

    def need_data(self, stage: str) -> Data:
        """The data, or a UsageError that names the stage that cannot go without."""
        if self.data is None:
            raise UsageError(f"{stage} needs images", fix="give it --data (or `data:` in the recipe)")
        return self.data


@dataclass(frozen=True)
class StageResult:
    """The new model and what was done to it, as JSON-ready facts (units in the names)."""

    model: Model
    facts: dict[str, Any] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    """Texts to lay beside the model, by file name (such as `pruned.json`)."""
    unfinished: bool = False
    """Ctrl-C cut it short: this run goes on with what there is, the same command later goes on from `scratch`."""


class Stage(Spec):
    """One step of a recipe: Model -> StageResult."""

    per_tier: ClassVar[bool] = False
    """Runs once for each tier, with that tier's rules, instead of once for all."""
    kind: str
    """The name of the method: what tells members of a family apart in a recipe."""
    makes_network: ClassVar[bool] = False
    """What it returns is a newly trained network: later stages are compared with that."""

    def wanted(self, tier: Tier) -> bool:
        """Whether a per-tier stage has anything to do for `tier`."""
        return True

    def needs_artifact(self) -> bool:
        """Whether it asks `context.artifact`, so that a change in the tier's stages is a change of this one."""
        return False

    def draft(self) -> Stage:
        """A per-tier stage in its quickest form, whose result takes as many bytes and as much RAM."""
        return self

    def references(self) -> tuple[ModelRef | Shrink, ...]:
        """Other models that the stage reads, so that a change in one of them is a change of the stage."""
        return ()

    def apply(self, model: Model, context: Context) -> StageResult:
        """Return the new model and the facts. Raises EdgeoptError."""
        raise NotImplementedError
