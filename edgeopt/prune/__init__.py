"""Structured pruning: channels that depend on one another leave together, proved on the graph itself."""

from edgeopt.prune.correct import LeastSquares
from edgeopt.prune.criteria import (
    L1,
    L2,
    BatchNormScale,
    Criterion,
    GeometricMedian,
    Random,
    Reconstruction,
    Taylor,
)
from edgeopt.prune.record import apply_pruning
from edgeopt.prune.stage import Prune
from edgeopt.prune.target import Target

__all__ = [
    "L1",
    "L2",
    "BatchNormScale",
    "Criterion",
    "GeometricMedian",
    "LeastSquares",
    "Prune",
    "Random",
    "Reconstruction",
    "Target",
    "Taylor",
    "apply_pruning",
]
