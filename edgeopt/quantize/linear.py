"""Large matrices of a float graph, found and stored as int8: what weight-only and dynamic quantization share.

A matrix is stored as its products want it, [inputs, outputs], with a scale for each output; a table that rows are
looked up in (an embedding) has a scale for each row, and a row is made float again after it has been looked up.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir

from edgeopt.errors import UsageError
from edgeopt.model.model import Model
from edgeopt.model.passes.edit import add_constant, attribute, constant_of, replace_node
from edgeopt.quantize.eligible import is_float
from edgeopt.quantize.weights import QuantizedTensor, WeightScale, quantize_weight
from edgeopt.tiers import Tier

__all__ = ["LARGE", "Matrices", "refuse_explicit", "why_not"]

LARGE = 2**14
"""Weights from which a matrix is worth it. onnxruntime 1.32, one thread, AVX512-VNNI, time over float for 1 / 16 / 128
rows: 128x128 weight-only 1.06 / 1.28 / 1.49, dynamic 1.08 / .91 / .56; 512x512 .49 / .87 / .94 and .50 / .37 / .32;
1024x1024 .38 / .80 / .75 and .36 / .32 / .25. Below 128x128 neither gains anything, and little space is saved."""


def refuse_explicit(tier: Tier, what: str) -> None:
    """Raise UsageError for tiers whose runtime has no kernel for float or run-time ranged activations."""
    if tier.integer_only:
        raise UsageError(
            f"{what} leaves activations in float, and tier {tier.name} runs in integers only",
            where="activations",
            fix="leave out `activations`: static ranges are what this tier takes",
        )
    if not tier.placement.quantize_outputs:
        raise UsageError(
            f"{what} has no form in the explicit quantization that tier {tier.name} asks for",
            where="activations",
            fix="leave out `activations` (static ranges), or take the tier's fp16",
        )


def why_not(node: ir.Node, excluded: Collection[str]) -> str | None:
    """Why a MatMul, Gemm, Gather or Conv stays as it is; None for float constants, large enough, as its weight."""
    position = 0 if node.op_type == "Gather" else 1
    weight = node.inputs[position]
    array_shape = weight.const_value.shape if weight is not None and weight.const_value is not None else None
    if node.name in excluded:
        return "excluded"
    if array_shape is None:
        return "its weight is computed"
    if not is_float(weight) or not is_float(node.outputs[0]):
        return "not float32"
    if len(array_shape) != 2 and node.op_type != "Conv":
        return "its weight is no matrix"
    if node.op_type == "Gemm" and attribute(node, "transA", 0):
        return "its input is transposed"
    if node.op_type == "Gather" and attribute(node, "axis", 0) != 0:
        return "it looks up columns"
    if int(np.prod(array_shape.numpy())) < LARGE:
        return f"fewer than {LARGE:,} weights"
    return None


@dataclass
class Matrices:
    """The matrices of one graph that is being changed, in int8, each stored once however many read it."""

    model: Model
    method: WeightScale
    excluded: Collection[str]
    done: dict[str, str] = field(default_factory=dict)
    """Node name -> operator, of what was quantized."""
    floating: dict[str, str] = field(default_factory=dict)
    """Node name -> why it was not, of the operators asked for."""
    _stored: dict[tuple[Any, ...], tuple[ir.Value, ir.Value]] = field(default_factory=dict)

    def wanted(self, *operators: str, tell: bool = True) -> list[ir.Node]:
        """The nodes of these operators that are worth it, in order; bodies of control flow are left alone.

        `tell` false: those that are not go without a word, as most Gather nodes are no embeddings.
        """
        found = []
        for node in list(self.model.graph.graph):
            if node.domain not in ("", "ai.onnx") or node.op_type not in operators:
                continue
            reason = why_not(node, self.excluded)
            if reason is None:
                found.append(node)
                self.done[node.name or ""] = node.op_type
            elif tell:
                self.floating[node.name or ""] = reason
        return found

    def product(self, node: ir.Node) -> tuple[ir.Value, ir.Value]:
        """int8 [inputs, outputs] and float32 scale [outputs] of a MatMul or Gemm, `alpha` and `transB` worked in."""
        weight, alpha = constant_of(node.inputs[1]), float(attribute(node, "alpha", 1.0))  # type: ignore[arg-type]
        transposed = node.op_type == "Gemm" and bool(attribute(node, "transB", 0))
        assert weight is not None
        plain = weight.T if transposed else weight
        return self._store(node.inputs[1], plain, 1, (transposed, alpha), np.float32(alpha))

    def bias(self, node: ir.Node) -> ir.Value | None:
        """What a Gemm adds, `beta` worked in; None where there is nothing to add."""
        if node.op_type != "Gemm" or len(node.inputs) < 3 or node.inputs[2] is None:
            return None
        bias, beta = node.inputs[2], float(attribute(node, "beta", 1.0))  # type: ignore[arg-type]
        array = constant_of(bias)
        if beta == 1.0:
            return bias
        if array is not None:
            return add_constant(self.graph, f"{bias.name}_scaled", np.asarray(array * np.float32(beta)))
        factor = add_constant(self.graph, f"{node.name}_beta", np.asarray(beta, np.float32))
        scaled = ir.node("Mul", [bias, factor], name=f"{node.name}_beta")
        scaled.outputs[0].name, scaled.outputs[0].type = f"{node.name}_scaled", ir.TensorType(ir.DataType.FLOAT)
        self.graph.insert_before(node, scaled)
        return scaled.outputs[0]

    @property
    def graph(self) -> ir.Graph:
        return self.model.graph.graph

    def look_up(self, node: ir.Node) -> None:
        """Replace a Gather from a float table by one from its int8 form, times the scale of each row."""
        table, ids = constant_of(node.inputs[0]), node.inputs[1]
        assert table is not None
        integers, scale = self._store(node.inputs[0], table, 0, ("rows",), np.float32(1))
        rows = ir.node("Gather", [integers, ids], {"axis": 0}, name=f"{node.name}_rows")
        scales = ir.node("Gather", [scale, ids], {"axis": 0}, name=f"{node.name}_scales")
        cast = ir.node("Cast", [rows.outputs[0]], {"to": ir.DataType.FLOAT.value}, name=f"{node.name}_cast")
        name = node.outputs[0].name or ""
        for made, part, kind in (
            (rows, "rows", ir.DataType.INT8),
            (scales, "scales", ir.DataType.FLOAT),
            (cast, "cast", ir.DataType.FLOAT),
        ):
            made.outputs[0].name, made.outputs[0].type = f"{name}_{part}", ir.TensorType(kind)
        replace_node(node, [rows, scales, cast, ir.node("Mul", [cast.outputs[0], scales.outputs[0]])])

    def facts(self, before: Model) -> dict[str, Any]:
        """What was done, JSON-ready; `before` is the model that was handed in."""
        old, new = _weight_bytes(before), _weight_bytes(self.model)
        return {
            "quantized_nodes": dict(sorted(Counter(self.done.values()).items())),
            "float_nodes": self.floating,
            "weight_bytes_before": old,
            "weight_bytes_after": new,
            "bytes_saved": old - new,
        }

    def drop_unused(self) -> None:
        """Remove the float matrices that nobody reads any more."""
        initializers = self.model.graph.graph.initializers
        for name, value in list(initializers.items()):
            if not value.uses() and not value.is_graph_output():
                del initializers[name]

    def _store(
        self, value: ir.Value | None, matrix: np.ndarray, axis: int, kind: tuple[Any, ...], factor: np.float32
    ) -> tuple[ir.Value, ir.Value]:
        key = (value, *kind)
        if key not in self._stored:
            assert value is not None
            tensor: QuantizedTensor = quantize_weight(matrix, axis, method=self.method)
            scale = np.asarray(tensor.scale * factor, np.float32)
            scale = scale.reshape(-1, 1) if axis == 0 else scale
            self._stored[key] = (
                add_constant(self.graph, f"{value.name}_quantized", tensor.integers),
                add_constant(self.graph, f"{value.name}_scale", scale),
            )
        return self._stored[key]


def _weight_bytes(model: Model) -> int:
    values = model.graph.graph.initializers.values()
    return sum(value.const_value.nbytes for value in values if value.const_value is not None)
