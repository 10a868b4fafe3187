"""Which nodes can run in integers, and which are worth it: the first half of placement."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

import onnx_ir as ir

from edgeopt.errors import StageFailed, UsageError
from edgeopt.model.passes.edit import constant_of
from edgeopt.quantize.masks import holds_masked_scores
from edgeopt.quantize.operators import ONNXRUNTIME, SHARING, WITH_BIAS, data_inputs, hands_on_values, has_weight
from edgeopt.tiers import Tier

__all__ = ["choose_nodes", "find_excluded", "is_float", "why_float"]

FOLLOWS = "what it reads is float"


def find_excluded(nodes: Sequence[ir.Node], tier: Tier, exclude: Sequence[str]) -> set[str]:
    """Names of the nodes that `exclude` (names, or regular expressions for a whole name) keeps in float.

    Raises UsageError for an entry that matches nothing, and on an integer-only tier.
    """
    if exclude and tier.integer_only:
        raise UsageError(
            f"tier {tier.name} runs in integers only, so no node can stay in float",
            where="exclude",
            fix="drop `exclude`, or aim at a tier that has float kernels",
        )
    found: set[str] = set()
    for pattern in exclude:
        try:
            matching = {n.name for n in nodes if n.name and (n.name == pattern or re.fullmatch(pattern, n.name))}
        except re.error as error:
            raise UsageError(f"{pattern!r} is not a regular expression ({error})", where="exclude") from error
        if not matching:
            raise UsageError(
                f"no node of the simplified graph is called {pattern!r}",
                where="exclude",
                fix="`edgeopt inspect` lists the names",
            )
        found |= matching
    return found


def why_float(node: ir.Node, operators: Collection[str], excluded: set[str]) -> str | None:
    """Why the node cannot run in integers wherever its inputs come from; None when it can."""
    if node.name in excluded:
        return "excluded"
    if node.domain not in ("", "ai.onnx") or node.op_type not in operators:
        return "no integer kernel"
    if any(not is_float(node.inputs[i]) for i in data_inputs(node)) or not is_float(node.outputs[0]):
        return "not float32"
    if node.op_type in WITH_BIAS and not has_weight(node) and node.op_type != "Gemm":
        return "its weight is computed"
    if node.op_type in WITH_BIAS and len(node.inputs) > 2 and not _has_plain_bias(node):
        return "its bias is computed or is not one value for each channel"
    if node.op_type in SHARING and not hands_on_values(node):
        return "it makes values outside its input's range"
    if holds_masked_scores(node):
        return "it holds masked scores"
    return None


def _has_plain_bias(node: ir.Node) -> bool:
    bias, weight = constant_of(node.inputs[2]), constant_of(node.inputs[1])
    if node.inputs[2] is None:
        return True
    return bias is not None and weight is not None and (bias.size == 1 or bias.size == bias.shape[-1])


def is_float(value: ir.Value | None) -> bool:
    """Whether the value is known to be float32."""
    if value is None:
        return False
    dtype = value.const_value.dtype if value.const_value is not None else value.dtype
    return bool(dtype == ir.DataType.FLOAT)


def choose_nodes(nodes: Sequence[ir.Node], tier: Tier, excluded: set[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Integer nodes (name -> operator) and float nodes (name -> why).

    Raises StageFailed when an integer-only tier meets a node that has to stay in float.
    """
    operators = tier.placement.operators or ONNXRUNTIME
    integer: dict[str, str] = {}
    floating: dict[str, str] = {}
    for node in nodes:
        reason = why_float(node, operators, excluded)
        if reason is None and not tier.integer_only and not has_weight(node) and not _reads_integers(node, integer):
            reason = FOLLOWS
        (integer if reason is None else floating)[node.name or ""] = node.op_type if reason is None else reason
    if not tier.integer_only:
        _move_bytes(nodes, integer, floating)
    else:
        _refuse_floats(nodes, tier, floating)
    return integer, floating


def _move_bytes(nodes: Sequence[ir.Node], integer: dict[str, str], floating: dict[str, str]) -> None:
    """A Transpose or Reshape follows its readers, in place: bytes are moved for integer ones, floats for others."""
    for node in reversed(nodes):
        name = node.name or ""
        if node.op_type not in SHARING or floating.get(name, FOLLOWS) != FOLLOWS:
            continue
        readers = [user.name in integer for output in node.outputs for user, _ in output.uses()]
        if readers and all(readers) and not any(output.is_graph_output() for output in node.outputs):
            floating.pop(name, None)
            integer[name] = node.op_type
        elif not any(readers):
            integer.pop(name, None)
            floating[name] = "nothing that runs in integers reads it"


def _reads_integers(node: ir.Node, integer: dict[str, str]) -> bool:
    """Whether everything computed that the node reads was made by an integer node."""
    computed = [node.inputs[i] for i in data_inputs(node) if constant_of(node.inputs[i]) is None]
    makers = [value.producer() for value in computed if value is not None]
    return bool(makers) and all(maker is not None and maker.name in integer for maker in makers)


def _refuse_floats(nodes: Sequence[ir.Node], tier: Tier, floating: dict[str, str]) -> None:
    """Raise StageFailed for the first float node that an integer-only tier cannot have at its rim."""
    rim = _rim(nodes, tier)
    for node in nodes:
        if node.name in floating and node.name not in rim:
            raise StageFailed(
                f"node {node.name!r} ({node.op_type}) cannot run in integers: {floating[node.name]}",
                where=f"tier {tier.name}",
                fix=f"this tier's integer operators are {', '.join(sorted(tier.placement.operators or ONNXRUNTIME))}",
            )


def _rim(nodes: Sequence[ir.Node], tier: Tier) -> set[str]:
    """Nodes of allowed float operators that hang together with the graph's inputs or outputs."""
    rim: set[str] = set()
    for node in nodes:
        makers = [v.producer() for v in node.inputs if v is not None and constant_of(v) is None]
        if node.op_type in tier.float_operators and all(m is None or m.name in rim for m in makers):
            rim.add(node.name or "")
    for node in reversed(nodes):
        readers = [user.name in rim for output in node.outputs for user, _ in output.uses()]
        if node.op_type in tier.float_operators and all(readers):
            rim.add(node.name or "")
    return rim
