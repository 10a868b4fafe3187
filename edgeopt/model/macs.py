"""Multiply-adds of each ONNX operator, from shapes alone.

One multiply-add is one MAC, and only products with weights or between activations in convolutions, matrix
products and recurrent cells count: biases, normalization, activations, pooling and elementwise arithmetic
are 0. That is how fvcore and torchvision count, whose published "GFLOPS" are these MACs. A new operator is
one function and one entry.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import onnx_ir as ir

from edgeopt.model.passes.edit import attribute

__all__ = ["COUNTERS", "Shape", "count_macs"]

Shape = tuple[int, ...]
Counter = Callable[[ir.Node, Sequence[Shape], Sequence[Shape]], int]
"""Node, shapes of its inputs (() where absent) and of its outputs -> MACs."""


def count_macs(node: ir.Node, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> int:
    """MACs of one node; 0 for operators that COUNTERS does not list."""
    counter = COUNTERS.get(node.op_type)
    return 0 if counter is None else counter(node, inputs, outputs)


def conv(weight: int) -> Counter:
    """Every output element is a dot product over [C_in / group, *kernel]; `weight` is the input that holds
    W.
    """
    return lambda node, inputs, outputs: math.prod(outputs[0]) * math.prod(inputs[weight][1:])


def conv_transpose(node: ir.Node, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> int:
    """Every input element is spread over [C_out / group, *kernel]."""
    return math.prod(inputs[0]) * math.prod(inputs[1][1:])


def gemm(node: ir.Node, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> int:
    """[M, K] x [K, N]: M * N * K."""
    return math.prod(outputs[0]) * inputs[0][0 if attribute(node, "transA", 0) else 1]


def matmul(node: ir.Node, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> int:
    """[..., M, K] x [..., K, N]: every output element is a dot product over K."""
    return math.prod(outputs[0]) * inputs[0][-1]


def einsum(node: ir.Node, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> int:
    """The product of all index extents, for two operands without an ellipsis; 0 otherwise."""
    equation = str(attribute(node, "equation", "")).replace(" ", "")
    terms = equation.split("->")[0].split(",")
    if len(terms) != 2 or "." in equation:
        return 0
    extents = {
        index: dim for term, shape in zip(terms, inputs, strict=True) for index, dim in zip(term, shape, strict=True)
    }
    return math.prod(extents.values())


def recurrent(node: ir.Node, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> int:
    """X [steps, batch, in] through W [directions, gates * hidden, in] and R [directions, gates * hidden,
    hidden].
    """
    x, w, r = inputs[:3]
    samples = x[0] * x[1]
    return samples * (math.prod(w) + math.prod(r))


COUNTERS: dict[str, Counter] = {
    "Conv": conv(weight=1),
    "ConvInteger": conv(weight=1),
    "ConvTranspose": conv_transpose,
    "Einsum": einsum,
    "FusedConv": conv(weight=1),
    "FusedGemm": gemm,
    "FusedMatMul": matmul,
    "GRU": recurrent,
    "Gemm": gemm,
    "LSTM": recurrent,
    "MatMul": matmul,
    "MatMulInteger": matmul,
    "QGemm": gemm,
    "QLinearConv": conv(weight=3),
    "QLinearMatMul": matmul,
    "RNN": recurrent,
}
"""ONNX's and onnxruntime's operators that multiply; everything else counts 0."""
