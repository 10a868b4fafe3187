"""Correction: what is left of a pruned network is fitted to what the original computed, before any training."""

from edgeopt.prune.correct.spec import LeastSquares, correct

__all__ = ["LeastSquares", "correct"]
