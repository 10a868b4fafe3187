"""Distillation: a small network learns from a large one."""

from edgeopt.distill.losses import (
    AttentionTransfer,
    Dist,
    Dkd,
    Hint,
    Loss,
    Outputs,
    Rkd,
    SimilarityPreserving,
    SoftTargets,
    Sum,
)
from edgeopt.distill.stage import Distill

__all__ = [
    "AttentionTransfer",
    "Dist",
    "Distill",
    "Dkd",
    "Hint",
    "Loss",
    "Outputs",
    "Rkd",
    "SimilarityPreserving",
    "SoftTargets",
    "Sum",
]
