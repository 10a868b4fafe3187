"""Units (slices that can only leave together) and ranking groups (units that compete with one another)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from edgeopt.prune.labels import Block
from edgeopt.prune.ties import FIXED
from edgeopt.prune.trace import Trace

__all__ = ["Group", "Plan", "Slices", "make_plan"]


@dataclass(frozen=True, eq=False)
class Slices:
    """What a group's units own of one axis of one initializer."""

    name: str
    axis: int
    index: np.ndarray
    """int64 [units, slices per unit]: indices along the axis."""
    produces: bool
    """These slices compute the unit's channels (an output axis), rather than read or rescale them."""


@dataclass(frozen=True, eq=False)
class Group:
    """Units that own the same number of slices of the same initializers, and are ranked against one another."""

    name: str
    """The initializer that produces them."""
    units: np.ndarray
    """int64 [n], ascending: numbers of the units."""
    slices: tuple[Slices, ...]

    def __len__(self) -> int:
        return len(self.units)

    @property
    def channels_per_unit(self) -> int:
        """Channels of the narrowest tensor that one unit stands for (4 of a grouped convolution, 1 mostly)."""
        return min(int(part.index.shape[1]) for part in self.slices)


@dataclass(frozen=True, eq=False)
class Plan:
    """The units of a model and what is known of every label."""

    trace: Trace
    unit_of: np.ndarray
    """Label -> number of its unit, or -1 where it stays."""
    groups: tuple[Group, ...]
    pinned: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Reason -> initializers whose producing axis (partly) stays because of it."""

    @property
    def count(self) -> int:
        """Number of units."""
        return sum(len(group) for group in self.groups)

    def everything(self) -> np.ndarray:
        """bool [units]: all kept. Masks are cleared where a unit leaves."""
        return np.ones(self.count, bool)

    @cached_property
    def lines(self) -> tuple[np.ndarray, ...]:
        """The units along each dim that could be emptied, each set once."""
        found: dict[bytes, np.ndarray] = {}
        for blocks in self.trace.labels.values():
            for block in blocks:
                units = np.unique(self.unit_of[block.ids])
                if units[0] >= 0:
                    found.setdefault(units.tobytes(), units)
        return tuple(found.values())

    def mask(self, ids: np.ndarray, kept: np.ndarray) -> np.ndarray:
        """Which elements of a label array stay."""
        stays: np.ndarray = np.append(kept, True)[self.unit_of[ids]]
        return stays


def make_plan(trace: Trace) -> Plan:
    """Gather connected components into units and units into ranking groups."""
    owned = _owned_axes(trace)
    free = np.zeros(len(trace.roots), bool)
    signature = np.zeros(len(trace.roots), np.uint64)
    for position, (_, _, roots) in enumerate(owned):
        present, counts = np.unique(roots, return_counts=True)
        free[present] = True
        signature[present] += _mix(position, counts)
    free[FIXED] = False
    free[list(trace.pinned)] = False
    roots = np.flatnonzero(free)
    number = np.full(len(trace.roots), -1)
    number[roots] = np.arange(len(roots))
    unit_of = number[trace.roots]
    groups = _groups(trace, owned, unit_of, signature[roots])
    return Plan(trace, unit_of, groups, _pinned(trace))


Owned = list[tuple[str, int, np.ndarray]]


def _owned_axes(trace: Trace) -> Owned:
    """(initializer, axis, root of each index) for everything that weights own."""
    return [(name, block.dims[0], trace.roots[block.ids]) for name, block in _weight_blocks(trace)]


def _weight_blocks(trace: Trace) -> list[tuple[str, Block]]:
    return [(name, block) for name in trace.weights for block in trace.labels[name]]


def _mix(position: int, counts: np.ndarray) -> np.ndarray:
    """A 64-bit hash of (position, count), so that a sum of them identifies a multiset (splitmix64)."""
    with np.errstate(over="ignore"):
        z = (counts.astype(np.uint64) << np.uint64(32)) + np.uint64(position + 1)
        z = z * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def _groups(trace: Trace, owned: Owned, unit_of: np.ndarray, signature: np.ndarray) -> tuple[Group, ...]:
    _, first, group_of = np.unique(signature, return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.argsort(order)
    group_of = rank[group_of] if len(signature) else group_of
    members = [np.flatnonzero(group_of == number) for number in range(len(order))]
    parts: dict[int, list[Slices]] = defaultdict(list)
    for name, axis, roots in owned:
        units = unit_of[roots]
        index = np.flatnonzero(units >= 0)
        by_group = group_of[units[index]]
        for number in np.unique(by_group):
            mine = index[by_group == number]
            mine = mine[np.argsort(units[mine], kind="stable")]
            table = mine.reshape(len(members[number]), -1)
            parts[number].append(Slices(name, axis, table, (name, axis) in trace.produces))
    return tuple(
        Group(_group_name(parts[number]), members[number], tuple(parts[number])) for number in range(len(order))
    )


def _group_name(parts: list[Slices]) -> str:
    return next((part.name for part in parts if part.produces), parts[0].name)


def _pinned(trace: Trace) -> dict[str, tuple[str, ...]]:
    names: dict[str, list[str]] = defaultdict(list)
    for name, block in _weight_blocks(trace):
        if (name, block.dims[0]) not in trace.produces:
            continue
        for root in np.unique(trace.roots[block.ids]):
            reason = trace.pinned.get(int(root))
            if reason is not None and name not in names[reason]:
                names[reason].append(name)
    return {reason: tuple(found) for reason, found in names.items()}
