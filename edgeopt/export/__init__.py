"""Export: the one file a tier gets, in the form it takes and within its limits."""

from edgeopt.export.artifact import make_artifact
from edgeopt.export.check import check_tier, objections
from edgeopt.export.lint import Finding

__all__ = [
    "Finding",
    "check_tier",
    "make_artifact",
    "objections",
]
