"""Einsum: every letter is one dim of everything that it indexes."""

from __future__ import annotations

from collections import defaultdict

import onnx_ir as ir

from edgeopt.prune.labels import Block
from edgeopt.prune.trace import Tracer

__all__ = ["einsum", "terms"]


def einsum(node: ir.Node, tracer: Tracer) -> bool:
    """Dims with the same letter are one; a letter that is summed over may lose slices, zeros add nothing to it.

    A diagonal (a letter twice in one operand) and an ellipsis over a different number of dims are not covered.
    """
    values = [value for value in node.inputs if value is not None]
    shapes = [tracer.shape(value) for value in values]
    if any(shape is None for shape in shapes):
        return False
    ranks = [len(shape or ()) for shape in shapes]
    found = terms(node.attributes.get_string("equation", ""), ranks)
    if found is None:
        return False
    operands, result = found
    where = f"node {node.name!r} (Einsum)"
    vectors = defaultdict(list)
    for value, letters, shape in zip(values, operands, shapes, strict=True):
        tracer.single(value)
        for dim, letter in enumerate(letters):
            if (shape or ())[dim] > 1:
                vectors[letter].append(tracer.vector(value, dim))
        tracer.note_produced(value, [dim for dim, letter in enumerate(letters) if letter in result])
    for same in vectors.values():
        for other in same[1:]:
            tracer.ties.unite(same[0], other, where)
    tracer.write(node.outputs[0], [Block((dim,), vectors[a][0]) for dim, a in enumerate(result) if vectors[a]])
    return True


def terms(equation: str, ranks: list[int]) -> tuple[list[str], str] | None:
    """Letters of each operand and of the result, or None; an ellipsis becomes capital letters that are free."""
    left, arrow, right = equation.replace(" ", "").partition("->")
    operands = left.split(",")
    if len(operands) != len(ranks):
        return None
    if not arrow:
        letters = left.replace(",", "").replace(".", "")
        right = "..." * ("..." in left) + "".join(sorted(a for a in set(letters) if letters.count(a) == 1))
    widths = {rank - len(o.replace(".", "")) for o, rank in zip(operands, ranks, strict=True) if "..." in o}
    if len(widths) > 1:
        return None
    free = [chr(code) for code in range(ord("A"), ord("Z") + 1) if chr(code) not in equation]
    dots = "".join(free[: max(widths, default=0)])
    operands = [operand.replace("...", dots) for operand in operands]
    if any(len(set(o)) != len(o) or len(o) != rank for o, rank in zip(operands, ranks, strict=True)):
        return None
    return operands, right.replace("...", dots)
