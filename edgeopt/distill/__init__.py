"""Distillation: a small network learns from a large one."""

from edgeopt.distill.losses import Loss, SoftTargets
from edgeopt.distill.stage import Distill

__all__ = ["Distill", "Loss", "SoftTargets"]
