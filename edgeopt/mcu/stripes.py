"""The first operators of a network by stripes of rows, so that of the tensors between them only a few rows exist.

A row of a convolution's output takes a few rows of its input; so do pools, and what works element by element takes one.
Where the first operators of a network are all of that kind, they are run for some rows of the last one's output, then
for the next ones. Rows that two stripes need are computed in both: that costs instructions, and no kernel has to know.

Each piece of a stripe is an operator like any other, on an image of fewer rows: padding above is left to the stripe at
the top, padding below to that at the bottom. So the integers are the same by construction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from edgeopt.mcu.program import Add, AveragePool, Conv, MaxPool, Mul, Op, Program, Table, Tensor

__all__ = ["Piece", "Stripe", "Striped", "stripe", "stripe_ends"]

Windowed = Conv | MaxPool | AveragePool
Elementwise = Add | Mul | Table


@dataclass(frozen=True, eq=False)
class Piece:
    """An operator for the rows of one stripe. Offsets are in bytes.

    What lies between operators is kept for one stripe only, from its first row; the input and output of all of them
    together are whole tensors.
    """

    op: Op
    """Its image has the stripe's rows, its output their size; inputs are the tensors of the whole program."""
    reads: tuple[int, ...]
    writes: int


Stripe = tuple[Piece, ...]


@dataclass(frozen=True, eq=False, kw_only=True)
class Striped(Op):
    """`ops` in order for each of the stripes, from the top of the image to its bottom."""

    ops: tuple[Op, ...]
    stripes: tuple[Stripe, ...]

    @property
    def macs(self) -> int:
        """Those of the operators; `recomputed` come on top."""
        return sum(op.macs for op in self.ops)

    @property
    def recomputed(self) -> int:
        """Multiply-adds of rows that two stripes need."""
        return sum(piece.op.macs for pieces in self.stripes for piece in pieces) - self.macs


def stripe_ends(program: Program) -> list[int]:
    """Numbers of operators, two or more, counted from the first, that can run by stripes together."""
    heights = _heights(program)
    local = next((at for at, op in enumerate(program.ops) if op.output not in heights), len(program.ops))
    readers = {tensor: number for number, op in enumerate(program.ops) for tensor in op.inputs}
    readers[program.output] = len(program.ops)
    return [end for end in range(2, local + 1) if all(readers.get(op.output, 0) < end for op in program.ops[: end - 1])]


def stripe(program: Program, end: int, count: int) -> Striped:
    """The first `end` operators in up to `count` stripes of equally many rows, the last one of what is left."""
    ops, heights = program.ops[:end], _heights(program)
    height = heights[ops[-1].output]
    rows = -(-height // count)
    stripes = [_stripe(ops, heights, (row, min(row + rows, height))) for row in range(0, height, rows)]
    layer = f"{ops[0].layer} to {ops[-1].layer} in {len(stripes)} stripes"
    return Striped(
        layer=layer, inputs=(ops[0].inputs[0],), output=ops[-1].output, ops=tuple(ops), stripes=tuple(stripes)
    )


def _heights(program: Program) -> dict[Tensor, int]:
    """Rows of the input, and of what operators make of it while they are local to rows."""
    if len(program.input_shape) != 3:
        return {}
    heights = {program.input: program.input_shape[0]}
    for op in program.ops:
        found = {heights.get(tensor) for tensor in op.inputs}
        height = found.pop()
        if found or height is None or not _is_local(op, height):
            break
        heights[op.output] = op.made.height if isinstance(op, Windowed) else height
    return heights


def _is_local(op: Op, height: int) -> bool:
    """Whether each row of the output takes only some of the input's `height` rows."""
    if isinstance(op, Add | Mul):
        return op.broadcast == 1
    if not isinstance(op, Windowed):
        return isinstance(op, Table)
    if isinstance(op, AveragePool) and op.everything:
        return False
    window = op.window
    below = (op.made.height - 1) * window.stride[0] - window.pads[0]  # where the lowest window begins
    return op.image.height == height > 1 and window.pads[0] < window.extent[0] and below < height


def _stripe(ops: Sequence[Op], heights: Mapping[Tensor, int], rows: tuple[int, int]) -> Stripe:
    """What makes `rows`, first and one after the last, of the last operator's output."""
    first, last = ops[0].inputs[0], ops[-1].output
    made = {last: rows}
    for op in reversed(ops):
        wanted = _rows_read(op, made[op.output])
        for tensor in op.inputs:
            before = made.get(tensor, wanted)
            made[tensor] = min(before[0], wanted[0]), max(before[1], wanted[1])
    begins = {tensor: 0 if tensor in (first, last) else rows[0] for tensor, rows in made.items()}
    return tuple(_piece(op, heights, begins, made[op.output]) for op in ops)


def _rows_read(op: Op, rows: tuple[int, int]) -> tuple[int, int]:
    """Rows of the input, clipped to the image, that these rows of the output take."""
    if not isinstance(op, Windowed):
        return rows
    stride, pad = op.window.stride[0], op.window.pads[0]
    begin, end = rows[0] * stride - pad, (rows[1] - 1) * stride - pad + op.window.extent[0]
    return max(0, begin), min(end, op.image.height)


def _piece(op: Op, heights: Mapping[Tensor, int], begins: Mapping[Tensor, int], rows: tuple[int, int]) -> Piece:
    read = _rows_read(op, rows)
    reads = tuple((read[0] - begins[tensor]) * (tensor.size // heights[tensor]) for tensor in op.inputs)
    row = op.output.size // heights[op.output]
    output = replace(op.output, size=(rows[1] - rows[0]) * row)
    return Piece(_with_rows(replace(op, output=output), rows, read), reads, (rows[0] - begins[op.output]) * row)


def _with_rows(op: Op, rows: tuple[int, int], read: tuple[int, int]) -> Op:
    if not isinstance(op, Windowed):
        return op
    above = max(0, op.window.pads[0] - rows[0] * op.window.stride[0])
    return replace(
        op,
        image=replace(op.image, height=read[1] - read[0]),
        made=replace(op.made, height=rows[1] - rows[0]),
        window=replace(op.window, pads=(above, op.window.pads[1])),
    )
