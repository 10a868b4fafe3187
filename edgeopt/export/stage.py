"""Export as a stage: what every tier's chain ends with."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np

from edgeopt.errors import UsageError
from edgeopt.model import Model
from edgeopt.stage import Context, Stage, StageResult

__all__ = ["Export"]


class Export(Stage):
    """Bring the model into its tier's form and hold it against the tier's limits."""

    per_tier: ClassVar[bool] = True

    kind: Literal["export"] = "export"

    def apply(self, model: Model, context: Context) -> StageResult:
        """The artifact's model, and its precision, size and what a runtime may object to.

        Raises StageFailed when the tier is not met, UsageError without a tier.
        """
        from edgeopt.export.artifact import make_artifact
        from edgeopt.export.lint import lint
        from edgeopt.export.precision import precision_of

        if context.tier is None:
            raise UsageError("export needs a tier", fix="give it --tier (or `tiers:` in the recipe)")
        artifact = make_artifact(model, context.tier, feeds=_one_image(model, context), progress=context.progress)
        precision = precision_of(artifact)
        findings = lint(artifact, context.tier.placement) if precision == "int8" else []
        facts = {
            "precision": precision,
            "opset": artifact.graph.opset_imports.get("", 0),
            "size_bytes": len(artifact.to_bytes()),
            "warnings": [str(finding) for finding in findings],
        }
        return StageResult(artifact, facts)


def _one_image(model: Model, context: Context) -> dict[str, np.ndarray] | None:
    """A calibration image to try the artifact on, where there is one and the model takes one input."""
    if context.data is None or len(context.data.calibration) == 0 or len(model.inputs) != 1:
        return None
    return {model.inputs[0].name: context.data.calibration.read(np.arange(1)).x}
