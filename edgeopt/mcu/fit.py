"""Fit a program into a given amount of RAM: how many of its first operators run by stripes, and in how many stripes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from edgeopt.mcu.arena import Arena, plan_arena
from edgeopt.mcu.call import Call
from edgeopt.mcu.lower_stripes import lower_striped
from edgeopt.mcu.program import Conv, Op, Program
from edgeopt.mcu.stripes import Striped, stripe, stripe_ends

__all__ = ["fit"]

COUNTS = (2, 3, 4, 5, 6, 8, 10, 12, 16, 24, 32, 48)
BEYOND = 3
"""Ends that are tried after the last operator that needs more than the limit, or than the best found."""


def fit(program: Program, ops: Sequence[Op], calls: Sequence[Call], limit: int) -> tuple[tuple[Call, ...], Arena]:
    """Calls and their memory within `limit` bytes, or in as few as stripes can do.

    `calls` are of the program as it is; `ops` are its operators before rows were joined, which stripes cut. Of what
    fits, that with the fewest multiply-adds computed twice.
    """
    arena = plan_arena(program, calls)
    if _size(arena) <= limit:
        return tuple(calls), arena
    pairs = zip(ops, program.ops, strict=True)
    cut = replace(program, ops=tuple(_like(op, chosen) for op, chosen in pairs))
    best, cost = tuple(calls), (1, _size(arena), 0)
    beyond = 0
    for end in stripe_ends(cut):
        aim = cost[1] if cost[0] == 1 and best[0].parts else limit
        beyond += end > _last_over(arena, aim)
        if beyond > BEYOND:
            break
        for striped in _stripings(cut, end):
            found = (lower_striped(striped), *calls[end:])
            size = _size(plan_arena(cut, found, shuffles=0))
            own = (0, striped.recomputed, size) if size <= limit else (1, size, striped.recomputed)
            if own < cost:
                best, cost = found, own
            if size <= limit:
                break  # more stripes compute more rows twice
    return best, plan_arena(cut, best)


def _stripings(program: Program, end: int) -> Iterator[Striped]:
    """Ever more stripes, each number once."""
    before = 1
    for count in COUNTS:
        striped = stripe(program, end, count)
        if len(striped.stripes) > before:
            before = len(striped.stripes)
            yield striped


def _last_over(arena: Arena, limit: int) -> int:
    """Number of operators up to the last one that needs more than `limit` bytes."""
    over = [at + 1 for plan in arena.plans.values() for at, step in enumerate(plan.steps) if step.live_bytes > limit]
    return max(over, default=0)


def _like(op: Op, chosen: Op) -> Op:
    """`op` with the order of elements that was chosen for it."""
    return replace(op, alternate=chosen.alternate) if isinstance(op, Conv) and isinstance(chosen, Conv) else op


def _size(arena: Arena) -> int:
    return max(plan.size for plan in arena.plans.values())
