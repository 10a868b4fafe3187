"""Where Q/DQ pairs go: the decision, made on the float graph before anything is measured.

A runtime turns DQ -> operator -> Q into one integer kernel, and falls back to float where a pair is missing, so
placement decides speed. The rules, with their reasons:

- A clip (Relu, Clip) directly after an operator is part of it: the pair stands after the clip, whose bounds become
  the ends of the range. A pair between the two would round twice, and no kernel would fuse.
- What hands numbers on (MaxPool, Reshape, Concat ...) shares one scale among its inputs and outputs: the integers
  are moved, none is computed. A Concat shares only where all its inputs are bounded by the same clip (or none is):
  a folded Relu needs a range that starts at zero.
- Add and Mul give each input its own scale. Sharing one would round the smaller branch of a residual block with the
  step of the larger; the kernel rescales both inputs anyway, so separate scales cost nothing.
- Average pools get their own output scale: a mean spreads over a fraction of the input's range, and the input's
  scale would waste most of the 256 levels.
- Zero is always a level (see ranges.py), so zero padding stays exact.
- A tensor that an integer operator makes is read through its DQ by everybody; one that a float operator makes is
  read through Q/DQ by integer operators only.
- Where floats are allowed, an operator without weights runs in integers only if all it reads was made in integers:
  otherwise the conversion costs more than the kernel gains. A Gemm or MatMul that no integer operator reads keeps a
  float output, which its kernel makes at no cost: the logits are not rounded.

With `quantize_outputs: false` (TensorRT's explicit quantization) pairs stand only on the inputs of Conv, Gemm and
MatMul and on one input of a residual Add, the one that does not come from the convolution that the Add is fused
into. No pair ever stands between Conv and its Relu.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import onnx_ir as ir

from edgeopt.model.model import Model
from edgeopt.quantize.eligible import choose_nodes, is_float
from edgeopt.quantize.explicit import plan_inputs
from edgeopt.quantize.operators import SHARING, clip_bounds, data_inputs, has_weight
from edgeopt.quantize.plan import Plan, Point
from edgeopt.tiers import Tier

__all__ = ["plan"]


def plan(model: Model, tier: Tier, floating: Collection[str] = ()) -> Plan:
    """Decide what is quantized. `model` has node names and inferred dtypes; the nodes named in `floating` stay float.

    Raises StageFailed when an integer-only tier meets an operator it has no integer kernel for.
    """
    nodes = list(model.graph.graph)
    excluded = set(floating)
    if not tier.placement.quantize_outputs:
        return plan_inputs(nodes, tier, excluded)
    return _plan_everything(nodes, tier, excluded)


def _plan_everything(nodes: Sequence[ir.Node], tier: Tier, excluded: set[str]) -> Plan:
    integer, floating = choose_nodes(nodes, tier, excluded)
    folded = _fold_clips(nodes, integer)
    within = {node.inputs[0] for node in nodes if node.name in folded}
    by_name = {node.name: node for node in nodes}
    points: dict[ir.Value, Point] = {}
    groups = _Groups()
    for node in nodes:
        if node.name not in integer:
            continue
        if node.name not in folded:
            for index in data_inputs(node):
                value = node.inputs[index]
                if value is not None and value not in points:
                    points[value] = _point(value, integer, everybody=False)
        maker = by_name[folded.get(node.name, node.name)]
        made = [v for v in node.outputs if v not in within and _wants_point(v, maker, integer, tier)]
        points |= {value: _point(value, integer, everybody=True) for value in made}
        if node.name in folded:
            groups.bounds[node.outputs[0]] = clip_bounds(node)
        elif node.op_type in SHARING:
            groups.join([v for i in data_inputs(node) if (v := node.inputs[i]) is not None], made)
    return Plan(
        points=tuple(Point(p.tensor, groups.root(v).name or "", p.uses, p.graph_output) for v, p in points.items()),
        sources=_sources(points, groups),
        weights=tuple(n.name for n in nodes if n.name in integer and has_weight(n)),
        folded=folded,
        integer=integer,
        floating=floating,
    )


def _fold_clips(nodes: Sequence[ir.Node], integer: dict[str, str]) -> dict[str, str]:
    """Clip node -> producer, where the producer's result goes nowhere else and zero is within the bounds."""
    folded: dict[str, str] = {}
    for node in nodes:
        bounds = clip_bounds(node)
        maker = node.inputs[0].producer() if node.inputs and node.inputs[0] is not None else None
        if bounds is None or not bounds[0] <= 0 <= bounds[1] or maker is None:
            continue
        alone = len(maker.outputs[0].uses()) == 1 and not maker.outputs[0].is_graph_output()
        fuses = maker.op_type not in SHARING and maker.name not in folded
        if alone and fuses and node.name in integer and maker.name in integer:
            folded[node.name or ""] = maker.name or ""
    return folded


def _point(value: ir.Value, integer: dict[str, str], *, everybody: bool) -> Point:
    """A pair on `value`, read by everybody or by the integer nodes (as data, not as a shape or a bias)."""
    uses = tuple(
        (user.name or "", index)
        for user, index in value.uses()
        if everybody or (user.name in integer and index in data_inputs(user))
    )
    return Point(value.name or "", value.name or "", uses, everybody and value.is_graph_output())


def _wants_point(value: ir.Value, maker: ir.Node, integer: dict[str, str], tier: Tier) -> bool:
    """False for what is not float, and where the kernel makes a float output at no cost and nobody wants integers."""
    if not is_float(value):
        return False
    read_in_integers = any(user.name in integer for user, _ in value.uses())
    float_output = maker.op_type in ("Gemm", "MatMul") and has_weight(maker) and not tier.integer_only
    return read_in_integers or not float_output


class _Groups:
    """Tensors that share a scale, as disjoint sets."""

    def __init__(self) -> None:
        self._parent: dict[ir.Value, ir.Value] = {}
        self.bounds: dict[ir.Value, tuple[float, float] | None] = {}
        """The clip that ends each tensor; None (or absent) where there is none."""
        self.copies: set[ir.Value] = set()
        """Tensors that only repeat values of others in their group."""

    def root(self, value: ir.Value) -> ir.Value:
        while value in self._parent:
            value = self._parent[value]
        return value

    def join(self, sources: Sequence[ir.Value], copies: Sequence[ir.Value]) -> None:
        """Give all of them one scale, if they end in the same clip."""
        bounds = {self.bounds.get(value) for value in sources}
        if len(bounds) > 1:
            return
        first = self.root(sources[0])
        for value in [*sources[1:], *copies]:
            if self.root(value) is not first:
                self._parent[self.root(value)] = first
        self.copies |= set(copies)
        self.bounds |= dict.fromkeys(copies, bounds.pop())


def _sources(points: dict[ir.Value, Point], groups: _Groups) -> dict[str, tuple[str, ...]]:
    """Group name -> names of the tensors that are observed for it."""
    members: dict[str, list[str]] = {}
    for value in points:
        if value not in groups.copies:
            members.setdefault(groups.root(value).name or "", []).append(value.name or "")
    return {group: tuple(names) for group, names in members.items()}
