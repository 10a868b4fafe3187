"""What float16 cannot hold, and which nodes therefore stay in float32.

Numbers beyond +-65504 become infinite, numbers below 6e-8 become zero and lose digits from 6e-5 down. A node is kept in
float32 for what it was seen to read and write, as NVIDIA ModelOpt's AutoCast classifies nodes by the magnitudes of
their inputs, outputs and initializers (nvidia.github.io/Model-Optimizer, guide 8, its IORangeRule and
InitializerRangeRule), with these differences: what is squared inside an operator counts squared, numbers that vanish
count as well as those that overflow, and a sum keeps its distance from the largest number by a factor and no more.
Without data to look at, operators known for large or small insides stay in float32 by rule.

onnxruntime on a CPU cannot show it: it runs most float16 nodes in float32 and drops the casts between them, so a
graph that overflows on a GPU gives good answers here. Weights and activations are therefore looked at in float32.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from edgeopt.model.model import Model

__all__ = ["LARGEST_HALF", "risky_by_magnitude", "risky_by_rule"]

LARGEST_HALF = 65504.0
MARGIN = 8.0
"""What other data may exceed the sample by."""
SMALLEST_NORMAL = 2.0**-14
"""Below this float16 has fewer than 11 bits; a tensor with nothing above it has lost its digits."""
SQUARES = frozenset({
    "GroupNormalization", "InstanceNormalization", "LayerNormalization", "LpNormalization",
    "MeanVarianceNormalization", "Pow", "RMSNormalization", "ReduceL2", "ReduceSumSquare",
})  # fmt: skip
"""Their insides are as large as the square of what they read."""
BY_RULE = SQUARES | {
    "CumSum", "Exp", "Log", "LogSoftmax", "Reciprocal", "ReduceLogSum", "ReduceLogSumExp", "ReduceProd", "ReduceSum",
    "ReduceSumExp", "Softmax", "Sqrt",
}  # fmt: skip


def risky_by_rule(model: Model) -> dict[str, str]:
    """First output of a node -> why, of the nodes that stay in float32 where there is no data to decide by."""
    nodes = [node for node in model.graph.graph if node.op_type in BY_RULE and node.domain in ("", "ai.onnx")]
    return {node.outputs[0].name or "": f"{node.op_type} by rule" for node in nodes}


def risky_by_magnitude(model: Model, feeds: Mapping[str, np.ndarray]) -> dict[str, str]:
    """First output of a node -> why, of the nodes that stay in float32 for the magnitudes of their constants and of
    what they read and write for `feeds`.

    Scalar constants that are too large are bounds and mask fills, which mean "very large" and may be cut. Raises
    StageFailed when onnxruntime cannot run the model on `feeds`.
    """
    seen = {name: _magnitude(array) for name, array in _activations(model, feeds).items() if array.dtype.kind == "f"}
    found: dict[str, str] = {}
    for node in model.graph.graph:
        reason = _of_constants(node) or _of_activations(node, seen)
        if reason is not None:
            found[node.outputs[0].name or ""] = reason
    return found


def _of_constants(node: ir.Node) -> str | None:
    for value in node.inputs:
        tensor = value.const_value if value is not None else None
        if tensor is None or tensor.dtype != ir.DataType.FLOAT:
            continue
        largest = _magnitude(tensor.numpy())
        if largest > LARGEST_HALF and tensor.size > 1:
            return f"weight {tensor.name} holds {largest:.3g}"
        if 0 < largest < SMALLEST_NORMAL:
            return f"constant {tensor.name} is at most {largest:.3g}"
    return None


def _of_activations(node: ir.Node, seen: Mapping[str, float]) -> str | None:
    inputs = _sizes(node.inputs, seen)
    outputs = _sizes(node.outputs, seen)
    for sizes, verb in ((inputs, "reads"), (outputs, "writes")):
        if max(sizes, default=0.0) * MARGIN > LARGEST_HALF:
            return f"{verb} {max(sizes):.3g}"
    if node.op_type in SQUARES and max(inputs, default=0.0) ** 2 * MARGIN > LARGEST_HALF:
        return f"squares {max(inputs):.3g}"
    if any(0 < size < SMALLEST_NORMAL for size in (*inputs, *outputs)):
        return "its numbers vanish"
    return None


def _sizes(values: Sequence[ir.Value | None], seen: Mapping[str, float]) -> list[float]:
    return [seen[value.name] for value in values if value is not None and value.name is not None and value.name in seen]


def _magnitude(array: np.ndarray) -> float:
    """Largest finite magnitude; infinities in the model are meant."""
    finite = array[np.isfinite(array)]
    return float(np.abs(finite).max(initial=0.0))


def _activations(model: Model, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The inputs, and every value that the nodes of the main graph compute from them, by name."""
    from edgeopt.model.runtime import open_session, run

    probe = model.copy()
    graph = probe.graph.graph
    graph.outputs.extend(
        value for node in graph for value in node.outputs if value.name and value not in set(graph.outputs)
    )
    session = open_session(probe, threads=1, optimize=False)
    names = [output.name for output in session.get_outputs()]
    return dict(feeds) | {
        name: found for name, found in zip(names, run(session, feeds), strict=True) if isinstance(found, np.ndarray)
    }
