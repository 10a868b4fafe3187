"""Attention masks: constants of -inf, or as good as that, which say what a Softmax is not to look at.

In float they cost nothing. A scale for 8 bits would have to reach down to them, and what is left to tell the scores
apart is a few levels; so whatever holds masked scores stays in float, from the mask to the Softmax.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgeopt.model.passes.edit import constant_of
from edgeopt.quantize.operators import SHARING

__all__ = ["holds_masked_scores", "is_mask"]

LOW = -50.0
"""exp(-50) is 2e-22: a Softmax makes nothing of it, whatever stands beside it."""
THROUGH = SHARING | {"Add", "Cast", "Max", "Where"}
"""Operators that stand between a mask and its Softmax: what was masked is masked behind them."""


def is_mask(value: ir.Value) -> bool:
    """Whether it is a constant without NaN or +inf that reaches Softmax alone, by way of nothing but `THROUGH`."""
    array = constant_of(value)
    if array is None or np.isnan(array).any() or np.isposinf(array).any():
        return False
    return _reaches_softmax_alone(value)


def holds_masked_scores(node: ir.Node) -> bool:
    """Whether what the node computes is scores that a constant has masked, on their way to a Softmax and nowhere
    else.
    """
    if node.op_type not in THROUGH or not all(_reaches_softmax_alone(output) for output in node.outputs):
        return False
    seen: set[ir.Node] = set()
    waiting = [node]
    while waiting:
        one = waiting.pop()
        if one in seen or one.op_type not in THROUGH:
            continue
        seen.add(one)
        if any(_is_low(value) for value in one.inputs):
            return True
        waiting += [maker for value in one.inputs if value is not None and (maker := value.producer()) is not None]
    return False


def _is_low(value: ir.Value | None) -> bool:
    array = constant_of(value)
    return array is not None and array.dtype.kind == "f" and bool((array <= LOW).any())


def _reaches_softmax_alone(value: ir.Value) -> bool:
    seen: set[ir.Value] = set()
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if one in seen:
            continue
        seen.add(one)
        if one.is_graph_output() or not one.uses():
            return False
        for reader, _ in one.uses():
            if reader.op_type in THROUGH:
                waiting += reader.outputs
            elif reader.op_type != "Softmax":
                return False
    return True
