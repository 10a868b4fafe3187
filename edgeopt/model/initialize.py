"""Random weights for a graph, as a network starts its training with."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from edgeopt.model.frozen import is_frozen
from edgeopt.model.model import Model
from edgeopt.model.passes.edit import attribute, constant_of

__all__ = ["initialize"]

NORMALIZATION: dict[str, tuple[float | None, ...]] = {
    "BatchNormalization": (None, 1.0, 0.0, 0.0, 1.0),
    "GroupNormalization": (None, 1.0, 0.0),
    "InstanceNormalization": (None, 1.0, 0.0),
    "LayerNormalization": (None, 1.0, 0.0),
    "RMSNormalization": (None, 1.0),
}
"""What each input of a normalization begins with."""
LAYERS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})


def initialize(model: Model, seed: int) -> Model:
    """A copy of `model` with new weights, drawn from `seed`.

    Kernels and matrices are normal with variance 2 / fan-out (He et al., arXiv 1502.01852), biases zero, normalizations
    the identity. Whatever else has weights (a table, a class token) keeps them.
    """
    fresh = model.copy()
    rng = np.random.default_rng(seed)
    done: set[str] = set()
    for node in fresh.graph.graph:
        for place, value in enumerate(node.inputs):
            old = constant_of(value)
            if value is None or old is None or old.dtype.kind != "f" or value.name in done:
                continue
            if is_frozen(value) and node.op_type not in NORMALIZATION:  # a mask; running statistics have the mark too
                continue
            array = _start(node, place, old, rng)
            if array is not None:
                done.add(value.name or "")
                value.const_value = ir.tensor(np.ascontiguousarray(array, old.dtype), name=value.name)
    return fresh


def _start(node: ir.Node, place: int, old: np.ndarray, rng: np.random.Generator) -> np.ndarray | None:
    """What input `place` of the node begins with; None for one that keeps its value."""
    starts = NORMALIZATION.get(node.op_type, ())
    if place < len(starts):
        start = starts[place]
        return None if start is None else np.full(old.shape, start)
    if node.op_type not in LAYERS or old.ndim == 0:
        return None
    if old.ndim == 1:
        return np.zeros(old.shape)
    return rng.normal(0.0, math.sqrt(2 / _fan_out(node, old.shape)), old.shape)


def _fan_out(node: ir.Node, shape: tuple[int, ...]) -> int:
    """Outputs that one input reaches, times the kernel's elements; as torch counts it, groups left out."""
    if node.op_type == "Gemm":
        return shape[0 if attribute(node, "transB", 0) else 1]
    if node.op_type == "MatMul":
        return shape[-1]
    return shape[1 if node.op_type == "ConvTranspose" else 0] * math.prod(shape[2:])
