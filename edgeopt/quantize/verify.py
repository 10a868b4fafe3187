"""What onnxruntime makes of a Q/DQ graph: the operators left after its optimizer has fused what it can."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path

import onnx

from edgeopt.errors import StageFailed
from edgeopt.model.model import Model
from edgeopt.tiers import Tier

__all__ = ["float_leftovers", "fused_operators", "require_integers", "unfused"]

ARITHMETIC = frozenset({
    "Conv", "FusedConv", "ConvTranspose", "Gemm", "FusedGemm", "MatMul", "FusedMatMul", "Add",
    "Sub", "Mul", "Div", "AveragePool", "GlobalAveragePool", "ReduceMean", "ReduceSum",
})  # fmt: skip
"""Operators that compute in float where they are left unfused. Functions of one variable (HardSwish, Tanh ...) between
DQ and Q are not among them: 256 possible inputs make them a table."""
FLOAT_RESULT = frozenset({"MatMulIntegerToFloat", "MatMulInteger", "ConvInteger"})
"""Operators that multiply integers and give floats (the latter two with a Cast and a Mul behind them)."""


TABLES = frozenset({"HardSwish", "Mish", "Gelu", "Swish"})


def fused_operators(model: Model, session: Mapping[str, str]) -> list[tuple[str, str]]:
    """(node name, operator) of every node that onnxruntime runs for `model` with these session options.

    Functions of one variable that it has no kernel for count as one HardSigmoid.
    """
    import onnxruntime as ort

    plain = model.copy()
    for node in plain.graph.graph:
        if node.op_type in TABLES and node.domain in ("", "ai.onnx"):
            # onnxruntime would spell them out as a float Mul and more
            node.op_type = "HardSigmoid"
            node.attributes.clear()
    with tempfile.TemporaryDirectory(prefix="edgeopt-") as folder:
        path = Path(folder, "optimized.onnx")
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.optimized_model_filepath = str(path)
        for key, value in session.items():
            options.add_session_config_entry(key, value)
        ort.InferenceSession(plain.to_bytes(), options, providers=["CPUExecutionProvider"])
        graph = onnx.load(str(path), load_external_data=False).graph
    return [(node.name, node.op_type) for node in graph.node]


def float_leftovers(model: Model, session: Mapping[str, str]) -> list[tuple[str, str]]:
    """(node name, operator) of the arithmetic that stays in float, or gives floats."""
    left = ARITHMETIC | FLOAT_RESULT
    return [(name, operator) for name, operator in fused_operators(model, session) if operator in left]


def unfused(model: Model, session: Mapping[str, str], integer: Collection[str]) -> list[str]:
    """Names of the nodes that were meant to run in integers (a plan's `integer`) and that onnxruntime leaves in float.

    Each of them pays for conversions around a float kernel: worth knowing, and worth excluding.
    """
    return [name for name, op in fused_operators(model, session) if op in ARITHMETIC and name in integer]


def require_integers(model: Model, tier: Tier) -> None:
    """Raise StageFailed naming the first node that the tier's reference runtime would compute in float."""
    left = [(name, op) for name, op in float_leftovers(model, tier.session) if op not in tier.float_operators]
    if left:
        raise StageFailed(
            f"node {left[0][0]!r} ({left[0][1]}) and {len(left) - 1} more would run in float",
            where=f"tier {tier.name}",
            fix="this pattern of operators has no integer kernel here; please report the model",
        )
