"""Export as a stage: what every tier's chain ends with."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np

from edgeopt.errors import StageFailed, UsageError
from edgeopt.model import Model
from edgeopt.stage import Context, Stage, StageResult
from edgeopt.tiers import Tier

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
        artifact = make_artifact(model, context.tier, feeds=_one_sample(model, context), progress=context.progress)
        precision = precision_of(artifact)
        findings = lint(artifact, context.tier.placement) if precision == "int8" else []
        facts = {
            "precision": precision,
            "opset": artifact.graph.opset_imports.get("", 0),
            "size_bytes": artifact.size_bytes,
            "warnings": [str(finding) for finding in findings],
            "rule_breaches": len(findings) if precision == "int8" else None,
        }
        files = _c_code(artifact, context, facts) if context.tier.c_code and precision == "int8" else {}
        return StageResult(artifact, facts, files)


def _c_code(artifact: Model, context: Context, facts: dict[str, Any]) -> dict[str, str]:
    """The C program's files, with its figures in `facts`; a warning and nothing where an operator has no kernel.

    Raises StageFailed when its memory is over the tier's limit.
    """
    from edgeopt.mcu import check_ram, compile_model, describe

    assert context.tier is not None
    try:
        limit = context.tier.max_peak_ram_bytes
        compiled = compile_model(artifact, samples=_first_images(context), ram_limit=limit)
    except StageFailed as error:
        _check_tensors(artifact, context.tier)
        facts["warnings"].append(str(error))
        context.progress.warn(f"no C code was written: {error}")
        return {}
    check_ram(compiled, context.tier)
    facts["c_code"] = describe(compiled)
    return compiled.files


def _check_tensors(artifact: Model, tier: Tier) -> None:
    """Raise StageFailed when a runtime that keeps whole tensors would be over the tier's RAM limit."""
    from edgeopt.export.check import ram_objections
    from edgeopt.model.profile import profile

    found = ram_objections(tier, profile(artifact))
    if found:
        raise StageFailed(found[0], where=f"tier {tier.name}", fix="prune or shrink these layers")


def _first_images(context: Context) -> np.ndarray | None:
    """Calibration images for the test vectors, where there are any."""
    if context.data is None or len(context.data.calibration) == 0:
        return None
    return context.data.calibration.read(np.arange(min(4, len(context.data.calibration)))).x


def _one_sample(model: Model, context: Context) -> dict[str, np.ndarray] | None:
    """A calibration sample to try the artifact on, where there is one."""
    if context.data is None or len(context.data.calibration) == 0:
        return None
    return context.data.calibration.read(np.arange(1)).feeds([info.name for info in model.inputs])
