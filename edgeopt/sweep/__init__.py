"""Sweep: variants of one recipe, made side by side, measured one after another, and which of them are worth having."""

from edgeopt.sweep.result import Figures, Sweep, VariantRow, read_sweep
from edgeopt.sweep.run import sweep
from edgeopt.sweep.show import Show
from edgeopt.sweep.variants import Plan, Variant, plan_sweep

__all__ = ["Figures", "Plan", "Show", "Sweep", "Variant", "VariantRow", "plan_sweep", "read_sweep", "sweep"]
