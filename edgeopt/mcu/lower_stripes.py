"""Operators that run by stripes of rows, as one call: loops over calls of the kernels that each of them has anyway.

Stripes in the middle of an image have the same sizes, so a layer has up to three descriptions (top, middle, bottom),
which share its weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from edgeopt.mcu.call import Call
from edgeopt.mcu.cores import PACKINGS, Packing
from edgeopt.mcu.lower import lower
from edgeopt.mcu.lower_conv import join_rows
from edgeopt.mcu.plan import Block, Plan, make_plan
from edgeopt.mcu.program import AveragePool, Conv, MaxPool, Tensor
from edgeopt.mcu.stripes import Piece, Stripe, Striped

__all__ = ["lower_striped"]

SHUFFLES = 40
"""Enough for the few tensors inside, of which many plans are made."""


@dataclass(frozen=True, eq=False)
class Shape:
    """Calls of a stripe, shared by all stripes of its sizes."""

    number: int
    calls: tuple[Call, ...]
    pieces: Stripe


def lower_striped(op: Striped) -> Call:
    """The stripes one after the other; what lies between the operators is part of the scratch memory."""
    shapes = _shapes(op)
    plans = {packing: _plan(op, shapes, packing) for packing in PACKINGS}
    keys = [_key(pieces) for pieces in op.stripes]
    ends = [own.output.name for own in (op.ops[0], op.ops[-1])]
    texts = [f"/* {ends[0]} to {ends[1]} in {len(keys)} stripes: rows that two of them need are computed in both */"]
    for key, numbers in groupby(range(len(keys)), key=lambda number: keys[number]):
        texts.append(_loop(op, shapes[key], [op.stripes[number] for number in numbers]))
    return Call(
        op,
        (),
        "\n    ".join(texts),
        scratch={packing: plan.size for packing, plan in plans.items()},
        over={0: _lead(op)},
        inside={packing: plan.offsets for packing, plan in plans.items()},
        parts=tuple(_named(call, shape.number) for shape in shapes.values() for call in shape.calls),
    )


def _key(pieces: Stripe) -> tuple[object, ...]:
    """Equal for stripes of the same sizes, wherever they lie."""
    found: list[object] = []
    for piece in pieces:
        found.append(piece.op.output.size)
        if isinstance(piece.op, Conv | MaxPool | AveragePool):
            found += [piece.op.image, piece.op.window.pads]
    inner = [piece.reads for piece in pieces[1:]]
    return (*found, *(tuple(reads) for reads in inner if len(pieces) > 1))


def _shapes(op: Striped) -> dict[tuple[object, ...], Shape]:
    found: dict[tuple[object, ...], Shape] = {}
    for pieces in op.stripes:
        if _key(pieces) not in found:
            calls = tuple(lower(own) for own in join_rows([piece.op for piece in pieces]))
            found[_key(pieces)] = Shape(len(found), calls, pieces)
    return found


def _named(call: Call, number: int) -> Call:
    """The call with a description of its own; those of all stripes have the first one's arrays."""
    output = replace(call.op.output, name=_name(call, number))
    return replace(call, op=replace(call.op, output=output), arrays=call.arrays if number == 0 else ())


def _name(call: Call, number: int) -> str:
    return f"{call.op.output.name}_stripe{number}"


def _plan(op: Striped, shapes: Mapping[tuple[object, ...], Shape], packing: Packing) -> Plan:
    """Memory between the operators, with room for the largest stripe, and their scratch memory."""
    last = {tensor: number for number, own in enumerate(op.ops) for tensor in own.inputs}
    blocks = []
    for number, own in enumerate(op.ops):
        calls = [shape.calls[number] for shape in shapes.values()]
        pieces = [shape.pieces[number] for shape in shapes.values()]
        if own.output is not op.output:
            size = max(piece.op.output.size for piece in pieces)
            over = _over(op, number, calls, pieces)
            blocks.append(Block(_rows(own.output), size, number, last[own.output], over))
        if scratch := max(call.scratch.get(packing, 0) for call in calls):
            blocks.append(Block(_scratch(own.output), scratch, number, number))
    return make_plan(blocks, [own.layer for own in op.ops], shuffles=SHUFFLES)


def _over(op: Striped, number: int, calls: Sequence[Call], pieces: Sequence[Piece]) -> dict[str, int]:
    """As in a plan of whole tensors; the lead counts from where the stripe's rows of the input begin to be read."""
    last = {tensor: at for at, own in enumerate(op.ops) for tensor in own.inputs}
    inputs = op.ops[number].inputs
    allowed = {}
    for tensor in dict.fromkeys(inputs):
        places = [place for place, source in enumerate(inputs) if source is tensor]
        every = all(place in call.over for call in calls for place in places)
        if tensor is not op.inputs[0] and last[tensor] == number and every:
            leads = [
                call.over[place] - piece.reads[place]
                for call, piece in zip(calls, pieces, strict=True)
                for place in places
            ]
            allowed[_rows(tensor)] = max(leads)
    return allowed


def _lead(op: Striped) -> int:
    """By how many bytes the input has to begin after the output: no row is written over that a later stripe reads."""
    (first,) = op.inputs
    written = [pieces[-1].writes + pieces[-1].op.output.size for pieces in op.stripes]
    read = [
        min(at for piece in pieces for at, source in zip(piece.reads, piece.op.inputs, strict=True) if source is first)
        for pieces in op.stripes
    ]
    return max((end - begin for end, begin in zip(written[:-1], read[1:], strict=True)), default=-first.size)


def _loop(op: Striped, shape: Shape, stripes: Sequence[Stripe]) -> str:
    """Statements for successive stripes of one shape."""
    one = len(stripes) == 1
    lines = []
    for number, call in enumerate(shape.calls):
        pieces = [pieces[number] for pieces in stripes]
        places = [
            _place(op, tensor, [piece.reads[place] for piece in pieces])
            for place, tensor in enumerate(op.ops[number].inputs)
        ]
        out = _place(op, op.ops[number].output, [piece.writes for piece in pieces])
        name = call.op.output.name
        text = call.text.replace(f"&{name},", f"&{_name(call, shape.number)},")
        lines.append(text.format(*places, out=out, scratch=_inside(_scratch(call.op.output))) + ";")
    if one:
        return "\n    ".join(lines)
    body = "\n        ".join(lines)
    return f"for (int32_t i = 0; i < {len(stripes)}; i++) {{{{\n        {body}\n    }}}}"


def _place(op: Striped, tensor: Tensor, offsets: Sequence[int]) -> str:
    """Where `tensor`'s rows are, for one stripe or, with the loop's `i`, for several."""
    inner = tensor is not op.inputs[0] and tensor is not op.output
    base = _inside(_rows(tensor)) if inner else "{0}" if tensor is op.inputs[0] else "{out}"
    step = offsets[1] - offsets[0] if len(offsets) > 1 else 0
    if offsets[0]:
        base += f" + {offsets[0]}"
    return base + (f" + i * {step}" if step else "")


def _inside(name: str) -> str:
    return f"arena.bytes + AT_{name.upper()}"


def _rows(tensor: Tensor) -> str:
    """Name of the place for one stripe of `tensor`."""
    return f"{tensor.name}_rows"


def _scratch(tensor: Tensor) -> str:
    return f"{_rows(tensor)}_scratch"
