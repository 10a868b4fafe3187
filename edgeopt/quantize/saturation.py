"""What part of a tensor its readers can tell apart.

A HardSwish is zero below -3: if nobody else reads its input, levels spent on values further down are lost. Where a
runtime has no integer kernel for such a function, the layer before it still rounds its output to 8 bits, and
ending that range where the function goes flat makes all other steps finer, at no error at all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from edgeopt.model.passes.edit import attribute
from edgeopt.quantize.histogram import Histogram
from edgeopt.quantize.operators import clip_bounds
from edgeopt.quantize.ranges import Range

__all__ = ["limit", "useful_range"]

EVERYTHING = Range(-np.inf, np.inf)


def useful_range(value: ir.Value) -> Range:
    """The range outside which every reader of `value` gives what it gives at the range's end.

    Sigmoid, Tanh, Swish and Gelu only come close: to a quarter of the step that 8 bits leave of their output.
    """
    if value.is_graph_output() or not value.uses():
        return EVERYTHING
    ranges = [_told_apart(user, value) for user, _ in value.uses()]
    return Range(min(r.low for r in ranges), max(r.high for r in ranges))


def limit(seen: Histogram, useful: Range) -> Histogram:
    """The histogram as it would be of the tensor clipped to `useful`; `seen` itself where that changes nothing."""
    if (useful.low <= seen.low and seen.high <= useful.high) or useful.low > seen.high or useful.high < seen.low:
        return seen
    counts, shares = seen.counts.copy(), seen.shares.copy()
    if counts.any():
        centres = (seen.edges[:-1] + seen.edges[1:]) / 2
        inside = np.flatnonzero((centres >= useful.low) & (centres <= useful.high))
        if len(inside) == 0:
            return seen
        first, last = inside[0], inside[-1]
        for values in (counts, shares):
            values[first] += values[:first].sum()
            values[last] += values[last + 1 :].sum()
            values[:first] = values[last + 1 :] = 0
    return replace(
        seen,
        low=max(seen.low, useful.low),
        high=min(seen.high, useful.high),
        average_low=max(seen.average_low, useful.low),
        average_high=min(seen.average_high, useful.high),
        counts=counts,
        shares=shares,
    )


def _told_apart(node: ir.Node, value: ir.Value) -> Range:
    """Where the function that `node` computes of `value` is not flat."""
    bounds = clip_bounds(node)
    if bounds is not None:
        return Range(*bounds)
    flat = FLAT.get(node.op_type)
    if flat is not None and node.inputs[0] is value:
        return flat(node)
    if node.op_type == "Mul" and any(_is_sigmoid_of(factor, value) for factor in node.inputs):
        return SWISH
    return EVERYTHING


def _is_sigmoid_of(factor: ir.Value | None, value: ir.Value) -> bool:
    """Whether factor * value is a Swish."""
    maker = factor.producer() if factor is not None else None
    return maker is not None and maker.op_type == "Sigmoid" and maker.inputs[0] is value


def _hard_sigmoid(node: ir.Node) -> Range:
    """clip(alpha*x + beta, 0, 1)"""
    alpha, beta = float(attribute(node, "alpha", 0.2)), float(attribute(node, "beta", 0.5))  # type: ignore[arg-type]
    return Range(-beta / alpha, (1 - beta) / alpha) if alpha > 0 else EVERYTHING


SWISH = Range(-7.0, np.inf)
FLAT: Mapping[str, Callable[[ir.Node], Range]] = {
    "HardSwish": lambda node: Range(-3.0, np.inf),
    "HardSigmoid": _hard_sigmoid,
    "Sigmoid": lambda node: Range(-7.0, 7.0),
    "Tanh": lambda node: Range(-3.5, 3.5),
    "Gelu": lambda node: Range(-3.5, np.inf),
}
