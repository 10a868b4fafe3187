"""The tensors and scratch memory of a program as blocks, and their plan for each packing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgeopt.mcu.call import Call
from edgeopt.mcu.cores import PACKINGS, Packing
from edgeopt.mcu.plan import SHUFFLES, Block, Plan, make_plan
from edgeopt.mcu.program import Program, Tensor

__all__ = ["Arena", "plan_arena"]


@dataclass(frozen=True)
class Arena:
    """One plan for each packing: their scratch memory differs."""

    plans: Mapping[Packing, Plan]


def plan_arena(program: Program, calls: Sequence[Call], *, shuffles: int = SHUFFLES) -> Arena:
    """Places for the input, every tensor but the output (which the caller has a place for), and scratch memory."""
    layers = [call.op.layer for call in calls]
    blocks = {packing: _blocks(program, calls, packing) for packing in PACKINGS}
    return Arena({packing: make_plan(own, layers, shuffles=shuffles) for packing, own in blocks.items()})


def _blocks(program: Program, calls: Sequence[Call], packing: Packing) -> list[Block]:
    last = _last_reads(program, calls)
    blocks = [Block(program.input.name, program.input.size, 0, last.get(program.input, 0))] if calls else []
    for number, call in enumerate(calls):
        output = call.op.output
        if output is not program.output:
            over = _over(call, last, number)
            blocks.append(Block(output.name, output.size, number, last.get(output, number), over))
        if call.scratch:
            blocks.append(Block(f"{output.name}_scratch", call.scratch[packing], number, number))
    return blocks


def _last_reads(program: Program, calls: Sequence[Call]) -> dict[Tensor, int]:
    return {tensor: number for number, call in enumerate(calls) for tensor in call.op.inputs}


def _over(call: Call, last: Mapping[Tensor, int], number: int) -> dict[str, int]:
    """Inputs that nobody reads after this call and that its kernel may write over, with their leads."""
    allowed: dict[str, int] = {}
    for tensor in dict.fromkeys(source for source in call.op.inputs if source.data is None):
        places = [place for place, source in enumerate(call.op.inputs) if source is tensor]
        if last[tensor] == number and all(place in call.over for place in places):
            allowed[tensor.name] = max(call.over[place] for place in places)
    return allowed
