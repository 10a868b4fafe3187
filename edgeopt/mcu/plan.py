"""The memory plan: where in the arena each tensor lies, and when.

A block (a tensor, or the scratch memory of one operator) is in use from the step that writes it to the last one that
reads it. Two blocks that are in use at the same time must not overlap, with one exception: an operator that reads its
input ahead of what it writes may write over it. `Block.lead` says by how many bytes the input has to begin later than
the output; it may be negative.

Blocks are placed one by one at the lowest address that is free. The result depends on their order, so several are
tried: largest first, in order of time, and shuffles of these (always the same ones). Optimal packing is NP-hard; for
the handful of tensors alive at the peak of a small network, the peak itself, a lower bound, is nearly always met.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

__all__ = ["SHUFFLES", "Block", "Plan", "Step", "make_plan"]

ALIGNMENT = 8
SHUFFLES = 300


@dataclass(frozen=True, eq=False)
class Block:
    """`size` bytes in use during steps `first` to `last`. `lead` is for an input that dies where an output is born."""

    name: str
    size: int
    first: int
    last: int
    over: Mapping[str, int] = field(default_factory=dict)
    """Name of a block that ends where this one begins -> its lead: this one may be written over it."""

    def meets(self, other: Block) -> bool:
        """Whether both are in use at some step."""
        return self.first <= other.last and other.first <= self.last


@dataclass(frozen=True)
class Step:
    """One operator of the timeline."""

    layer: str
    live_bytes: int
    """In use, those that an output shares with its input counted once."""
    blocks: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """Offsets of all blocks in an arena of `size` bytes."""

    size: int
    offsets: Mapping[str, int]
    steps: tuple[Step, ...]

    @property
    def peak(self) -> Step:
        """The step that needs most: its layer is where to save memory."""
        return max(self.steps, key=lambda step: step.live_bytes)


def make_plan(blocks: Sequence[Block], layers: Sequence[str], *, shuffles: int = SHUFFLES) -> Plan:
    """Offsets such that the arena is small; the same blocks give the same plan. `layers` names the steps."""
    orders = [
        sorted(blocks, key=lambda block: (-block.size, block.first)),
        sorted(blocks, key=lambda block: (block.first, -block.size)),
        sorted(blocks, key=lambda block: (-block.last, -block.size)),
    ]
    best: dict[str, int] = {}
    least = -1
    shuffled = random.Random(0)  # noqa: S311 - not for secrets
    for number in range(max(shuffles, len(orders))):
        order = list(orders[number % len(orders)])
        if number >= len(orders):
            _disturb(order, shuffled)
        offsets = _place(order)
        size = max((offsets[block.name] + block.size for block in blocks), default=0)
        if least < 0 or size < least:
            best, least = offsets, size
    return Plan(_aligned(max(least, 1)), best, tuple(_step(i, layer, blocks, best) for i, layer in enumerate(layers)))


def _place(order: Sequence[Block]) -> dict[str, int]:
    """Each block at the lowest aligned offset where it disturbs none that is placed already."""
    placed: list[tuple[Block, int]] = []
    for block in order:
        taken = [_forbidden(block, other, offset) for other, offset in placed if block.meets(other)]
        start = 0
        while any(low < start < high for low, high in taken):
            start = _aligned(min(high for low, high in taken if low < start < high))
        placed.append((block, start))
    return {block.name: offset for block, offset in placed}


def _forbidden(block: Block, other: Block, offset: int) -> tuple[int, int]:
    """Open interval of offsets at which `block` would collide with `other`, which lies at `offset`."""
    low, high = offset - block.size, offset + other.size
    if other.name in block.over:  # block is written over other: it may begin at other's lead before it, or earlier
        low = max(low, offset - block.over[other.name])
    if block.name in other.over:
        high = min(high, offset + other.over[block.name])
    return low, high


def _disturb(order: list[Block], shuffled: random.Random) -> None:
    if len(order) < 2:
        return
    for _ in range(1 + shuffled.randrange(4)):
        order.insert(shuffled.randrange(len(order)), order.pop(shuffled.randrange(len(order))))


def _step(number: int, layer: str, blocks: Sequence[Block], offsets: Mapping[str, int]) -> Step:
    live = [block for block in blocks if block.first <= number <= block.last]
    covered = reached = 0
    for begin, size in sorted((offsets[block.name], block.size) for block in live):
        covered += max(0, begin + size - max(begin, reached))
        reached = max(reached, begin + size)
    return Step(layer, covered, tuple(block.name for block in live))


def _aligned(offset: int) -> int:
    return -(-offset // ALIGNMENT) * ALIGNMENT
