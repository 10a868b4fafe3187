"""Quantize: a float model becomes INT8, as Q/DQ pairs placed for a tier. One `Stage`, calibrators as a union."""

from edgeopt.quantize.calibrators import Calibrator, Entropy, MinMax, MovingAverage, Mse, MseByImage, Percentile
from edgeopt.quantize.stage import Quantize

__all__ = ["Calibrator", "Entropy", "MinMax", "MovingAverage", "Mse", "MseByImage", "Percentile", "Quantize"]
