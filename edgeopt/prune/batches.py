"""What layer-by-layer work can afford."""

from __future__ import annotations

import numpy as np

from edgeopt.model import Model
from edgeopt.model.layerwise.moments import Moments
from edgeopt.model.layerwise.ridge import LARGEST_DOUBLE
from edgeopt.model.profile import profile

__all__ = ["BATCH", "HELD_BYTES", "LARGEST", "affordable", "empty_moments"]

BATCH = 16
HELD_BYTES = 2**30
"""Activations put aside at one place of the graph, all samples together: mostly on disk, see `Pile`."""
FEWEST = 64
"""Samples that even the widest network is looked at with."""
LARGEST = 4608
"""Inputs of a layer up to which their second moments are taken, a 3x3 kernel's over 512 channels: 85 MB a matrix."""


def affordable(model: Model, wanted: int) -> int:
    """Of so many samples those whose activations fit into HELD_BYTES at the widest place of the graph.

    With more, every layer would have to be run from the start. A network whose activations are wide has many places in
    each sample, so that few samples tell as much.
    """
    return min(wanted, max(FEWEST, HELD_BYTES // max(1, profile(model).peak_ram_bytes)))


def empty_moments(groups: int, outputs: int, inputs: int) -> Moments:
    """Moments in float64, or in float32 where matrices are factored in it, too."""
    return Moments.empty(groups, outputs, inputs, np.float64 if inputs <= LARGEST_DOUBLE else np.float32)
