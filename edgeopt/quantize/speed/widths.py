"""Channel counts that convolutions like: depthwise ones whose channels are no multiple of 16 get a few more.

This is about onnxruntime on a CPU.

The kernels work on blocks of 16 channels. A depthwise convolution in integers takes 2 to 3 times as long where its
channels are no multiple (88 channels of 28x28, 3x3: 56 us; 96: 20 us), and in float such a width leaves the blocked
layout at every pool and product. The channels that are added have zero weights on both sides, so the network computes
what it did; the file grows by the share of the channels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from edgeopt.model.model import Model
from edgeopt.model.passes.edit import attribute, constant_of

__all__ = ["align_widths"]

BLOCK = 16
MOST = 1.15
"""A width may grow by this factor at most: 72 becomes 80, 24 stays."""
UNARY = frozenset({"Clip", "HardSigmoid", "HardSwish", "LeakyRelu", "Relu", "Sigmoid", "Tanh"})
PAIRS = frozenset({"Add", "Mul"})


def align_widths(model: Model) -> Model:
    """A new model in which depthwise convolutions have a multiple of 16 channels where a few more do it.

    `model` is the prepared float model, BatchNormalization folded and shapes known. Widths that an operator other than
    convolutions, activations, sums, products and global pools sees stay as they are. Raises nothing.
    """
    changed = model.copy()
    done: set[ir.Value] = set()
    for node in list(changed.graph.graph):
        value = node.outputs[0] if _is_depthwise(node) else None
        if value is None or value in done:
            continue
        width = _width(value)
        wanted = math.ceil(width / BLOCK) * BLOCK
        stretch = _collect(value, width) if width < wanted <= MOST * width else None
        if stretch is not None:
            done |= set(stretch.values)
            stretch.widen(wanted)
    return changed


@dataclass
class _Stretch:
    """Tensors that have their channels in common, with the convolutions around them."""

    values: dict[ir.Value, None] = field(default_factory=dict)
    makers: dict[ir.Node, None] = field(default_factory=dict)
    """Convolutions that make the channels, depthwise ones included."""
    readers: dict[ir.Node, None] = field(default_factory=dict)
    """Convolutions that sum over them."""

    def widen(self, channels: int) -> None:
        """Give all of them `channels` channels."""
        for node in self.makers:
            if _is_depthwise(node):
                node.attributes["group"] = ir.AttrInt64("group", channels)
            for value in node.inputs[1:]:
                _pad(value, 0, channels)
        for node in self.readers:
            _pad(node.inputs[1], 1, channels)
        for value in self.values:
            assert value.shape is not None
            value.shape = ir.Shape([channels if axis == 1 else dim for axis, dim in enumerate(value.shape)])


def _collect(start: ir.Value, width: int) -> _Stretch | None:
    """Everything that has these channels; None where something else than the operators known here sees them."""
    stretch = _Stretch()
    pending: list[ir.Value | None] = [start]
    while pending:
        value = pending.pop()
        if value is None or value in stretch.values:
            continue
        maker = value.producer()
        if maker is None or value.is_graph_output() or _width(value) != width:
            return None
        stretch.values[value] = None
        for node, index in ((maker, None), *value.uses()):
            neighbours = _neighbours(stretch, node, index)
            if neighbours is None:
                return None
            pending += neighbours
    own = all(_is_own(value) for node in (*stretch.makers, *stretch.readers) for value in node.inputs[1:])
    return stretch if own else None


def _neighbours(stretch: _Stretch, node: ir.Node, index: int | None) -> list[ir.Value | None] | None:
    """Tensors with the same channels beyond a node that makes (`index` None) or reads the tensor; None: not known."""
    if node.domain not in ("", "ai.onnx"):
        return None
    if _is_depthwise(node) and index in (None, 0):
        stretch.makers[node] = None
        return [node.inputs[0], node.outputs[0]]
    if node.op_type == "Conv" and attribute(node, "group", 1) == 1 and index in (None, 0):
        (stretch.makers if index is None else stretch.readers)[node] = None
        return []
    if node.op_type in UNARY or node.op_type == "GlobalAveragePool":
        return [node.inputs[0], node.outputs[0]] if index in (None, 0) else None
    if node.op_type in PAIRS and all(constant_of(value) is None for value in node.inputs):
        return [*node.inputs, node.outputs[0]]
    return None


def _is_depthwise(node: ir.Node) -> bool:
    weight = constant_of(node.inputs[1]) if node.op_type == "Conv" else None
    group = attribute(node, "group", 1)
    return weight is not None and group != 1 and weight.shape[:2] == (group, 1)


def _width(value: ir.Value) -> int:
    dims = list(value.shape) if value.shape is not None else []
    return dims[1] if len(dims) == 4 and isinstance(dims[1], int) else 0


def _is_own(value: ir.Value | None) -> bool:
    """Whether a weight or bias is there, constant, and read by this node only."""
    return value is None or (value.const_value is not None and len(value.uses()) == 1)


def _pad(value: ir.Value | None, axis: int, channels: int) -> None:
    if value is None or value.const_value is None:
        return
    array = value.const_value.numpy()
    missing = [(0, channels - size if a == axis else 0) for a, size in enumerate(array.shape)]
    padded = np.pad(array, missing)
    value.const_value, value.shape = ir.tensor(padded, name=value.name), ir.Shape(padded.shape)
