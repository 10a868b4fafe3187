"""ONNX operators as torch functions: one small function each, grouped by subject.

To add an operator: write its function in the file of its subject, put it into that file's table, and
`tests/model/test_torch_ops.py` holds it to every node test that the onnx package has for it.
"""

from edgeopt.model.torch_ops import (
    activations,
    convolution,
    creation,
    elementwise,
    fake_quantize,
    indexing,
    linear,
    normalization,
    pooling,
    quantization,
    recurrent,
    reduction,
    resize,
    shape,
)
from edgeopt.model.torch_ops.operator import Operator

__all__ = ["OPERATORS", "Operator", "find_operator"]

OPERATORS: dict[str, Operator] = (
    activations.OPERATORS
    | convolution.OPERATORS
    | creation.OPERATORS
    | elementwise.OPERATORS
    | indexing.OPERATORS
    | linear.OPERATORS
    | normalization.OPERATORS
    | pooling.OPERATORS
    | quantization.OPERATORS
    | recurrent.OPERATORS
    | reduction.OPERATORS
    | resize.OPERATORS
    | shape.OPERATORS
)
"""Operator name of the default ONNX domain -> function."""

_DOMAINS = {"": OPERATORS, "ai.onnx": OPERATORS, fake_quantize.DOMAIN: fake_quantize.OPERATORS}


def find_operator(domain: str, name: str) -> Operator | None:
    """The entry for an operator of the default domain, or of the one that stands in for it in training."""
    return _DOMAINS.get(domain, {}).get(name)
