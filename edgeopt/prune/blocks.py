"""Residual blocks that can be taken out whole: y = x + f(x) becomes y = x.

A network of such blocks behaves like an ensemble of shallower ones, and losing single blocks costs it little (Veit et
al., arXiv 1605.06431). Which ones go does not follow from their weights: evenly spread ones, so that what stays is
spread evenly too, as DistilBERT takes one layer out of two of its teacher (Sanh et al., arXiv 1910.01108) and as works
best in LayerDrop (Fan et al., arXiv 1909.11556, section 4).

A block is found on the graph: an Add of two tensors of one shape, one of which, x, the other is computed from, with
nothing that enters on the way and nothing that leaves. Shortcuts with a projection are none: their shapes differ.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import takewhile

import onnx_ir as ir

from edgeopt.model import Model
from edgeopt.model.passes.dead import remove_dead
from edgeopt.model.passes.edit import bypass
from edgeopt.model.profile import with_shapes
from edgeopt.model.shapes import static_shape

__all__ = ["Block", "find_blocks", "remove_blocks", "spread"]

CONTRACTIONS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
"""A block has at least one of them."""


@dataclass(frozen=True)
class Block:
    """A residual block with an identity shortcut."""

    name: str
    """What its weights' names have in common (`layer1.1`), or the name of its Add."""
    add: str
    """Name of the Add's output."""
    x: str
    """Name of what comes in."""


def find_blocks(model: Model) -> list[Block]:
    """The blocks of a model, in graph order. Raises StageFailed where a shape is not known."""
    graph = with_shapes(model, 2)[0].graph.graph
    found = []
    for node in graph:
        if node.op_type != "Add" or len(node.inputs) != 2:
            continue
        one, other = node.inputs
        for x, y in ((one, other), (other, one)):
            inside = _between(x, y, node)
            if x is not None and inside and static_shape(x) == static_shape(node.outputs[0]):
                found.append(Block(_name(inside, node), node.outputs[0].name or "", x.name or ""))
                break
    return found


def remove_blocks(model: Model, depth: float) -> tuple[Model, list[Block], list[Block]]:
    """A new model with the share `depth` of its blocks (rounded up), the blocks there were, and those that left."""
    blocks = find_blocks(model)
    kept = set(spread(len(blocks), math.ceil(len(blocks) * depth - 1e-9)))
    chosen = [block for number, block in enumerate(blocks) if number not in kept]
    smaller = model.copy()
    # the last first: what comes into a block may go with the one before it
    removed = [block for block in reversed(chosen) if _take_out(smaller.graph.graph, block)][::-1]
    remove_dead(smaller.graph)
    return smaller, blocks, removed


def spread(count: int, kept: int) -> list[int]:
    """`kept` of the numbers below `count`, evenly spread, from 0: every other one for a half."""
    return [number * count // kept for number in range(kept)]


def _take_out(graph: ir.Graph, block: Block) -> bool:
    """Let everybody read what comes in; False where the model's output is its input then."""
    values = {value.name: value for node in graph for value in node.outputs}
    values |= {value.name: value for value in graph.inputs}
    add, x = values[block.add].producer(), values[block.x]
    assert add is not None
    readers = [reader for reader, _ in add.outputs[0].uses()]
    if not bypass(add, x):
        return False
    producer = x.producer()
    for reader in readers:  # a Relu of what is a Relu's output already
        if reader.op_type == "Relu" and producer is not None and producer.op_type == "Relu":
            bypass(reader, x)
    return True


def _between(x: ir.Value | None, y: ir.Value | None, add: ir.Node) -> list[ir.Node]:
    """The nodes that compute `y` from `x` and constants, where nobody else reads what is inside; none otherwise."""
    if x is None or y is None or x.const_value is not None:
        return []
    inside: dict[ir.Node, None] = {}
    pending = [y]
    while pending:
        value = pending.pop()
        if value is x or value.const_value is not None:
            continue
        node = value.producer()
        if node is None:
            return []  # an input of the model: y does not come from x alone
        if node not in inside:
            inside[node] = None
            pending += [source for source in node.inputs if source is not None]
    leaks = any(
        value.is_graph_output() or any(reader is not add and reader not in inside for reader, _ in value.uses())
        for node in inside
        for value in node.outputs
    )
    works = any(node.op_type in CONTRACTIONS for node in inside)
    return [] if leaks or not works else list(inside)


def _name(inside: list[ir.Node], add: ir.Node) -> str:
    """`layer1.1` for a block whose weights are `layer1.1.conv1.weight`, `layer1.1.bn1.bias` ..."""
    names = [value.name or "" for node in inside for value in node.inputs if value and value.const_value is not None]
    parts = zip(*(name.split(".") for name in names if "." in name), strict=False)
    common = [part[0] for part in takewhile(lambda part: len(set(part)) == 1, parts)]
    return ".".join(common) or add.name or add.outputs[0].name or ""
