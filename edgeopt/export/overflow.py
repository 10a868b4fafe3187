"""What float16 cannot hold: numbers beyond +-65504 become infinite on the device.

onnxruntime on a CPU cannot show it: it runs most float16 nodes in float32 and drops the casts between them,
so a graph that overflows on a GPU gives good answers here. Weights and activations are therefore looked at
in float32.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx

from edgeopt.errors import StageFailed
from edgeopt.model.child import model_name
from edgeopt.model.model import Model

__all__ = ["LARGEST_HALF", "refuse_overflow"]

LARGEST_HALF = 65504.0
NAMED = 5


def refuse_overflow(model: Model, feeds: Mapping[str, np.ndarray]) -> None:
    """Raises StageFailed naming the weights, and the activations for `feeds`, that do not fit into float16.

    Scalar constants are bounds and mask fills, which mean "very large" and may be cut.
    """
    weights = {name: array for name, array in model.weights().items() if array.size > 1}
    _refuse(model, weights, "weights")
    _refuse(model, _activations(model, feeds), "activations")


def _refuse(model: Model, arrays: Mapping[str, np.ndarray], what: str) -> None:
    largest = {name: _largest(array) for name, array in arrays.items() if array.dtype == np.float32}
    over = {name: size for name, size in largest.items() if size > LARGEST_HALF}
    if over:
        listed = ", ".join(f"{name} ({size:.3g})" for name, size in list(over.items())[:NAMED])
        raise StageFailed(
            f"{len(over)} {what} do not fit into float16, whose largest number is {LARGEST_HALF:g}: {listed}",
            where=model_name(model),
            fix="quantize to int8, or choose a tier that accepts fp32",
        )


def _largest(array: np.ndarray) -> float:
    """Largest finite magnitude; infinities in the model are meant."""
    return float(np.abs(np.where(np.isfinite(array), array, 0)).max(initial=0.0))


def _activations(model: Model, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Every value that the nodes compute for `feeds`, by name."""
    from edgeopt.model.runtime import open_session, run

    probe = model.to_proto()
    known = {output.name for output in probe.graph.output}
    inner = [name for node in probe.graph.node for name in node.output if name and name not in known]
    probe.graph.output.extend(onnx.ValueInfoProto(name=name) for name in inner)
    session = open_session(probe.SerializeToString(), threads=1, optimize=False)
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, run(session, feeds), strict=True))
