"""The cheapest labelling of a graph's nodes as integer or float, exactly: a minimum cut.

Each node costs something in float and something in integers, and each tensor whose maker and readers differ has to be
converted, once in each direction whatever the number of readers. That is a sum of functions of one and two binary
labels, all of them cheaper where labels agree, so a minimum s-t cut finds the optimum: Kolmogorov and Zabih 2004, What
Energy Functions Can Be Minimized via Graph Cuts?, IEEE PAMI 26(2). The flow is Dinic's (1970). Capacities are integers
(nanoseconds), so that equal problems have equal answers; of several optima the one with the fewest integer nodes is
returned.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

__all__ = ["FORBIDDEN", "Problem", "Tensor", "solve", "total"]

FORBIDDEN = 10**15
"""A cost that no optimum pays, nanoseconds."""


@dataclass(frozen=True)
class Tensor:
    """What one node (None: the caller) makes, and who reads it; the caller reads it too if it is an output."""

    maker: int | None
    readers: tuple[int, ...]
    to_integers: int
    """Nanoseconds to quantize it, where its maker is float and a reader integer."""
    to_floats: int
    """Nanoseconds to dequantize it, where its maker is integer and a reader float."""
    output: bool = False


@dataclass(frozen=True)
class Problem:
    """Nodes are numbered; costs are nanoseconds."""

    floating: tuple[int, ...]
    integer: tuple[int, ...]
    """FORBIDDEN where there is no integer kernel."""
    tensors: tuple[Tensor, ...]
    requires: tuple[tuple[int, int], ...] = ()
    """(a, b): a is integer only where b is."""


def total(problem: Problem, integer: frozenset[int]) -> int:
    """Nanoseconds with these nodes in integers and the others in float."""
    cost = sum(
        problem.integer[node] if node in integer else problem.floating[node] for node in range(len(problem.floating))
    )
    for tensor in problem.tensors:
        made = tensor.maker in integer
        if made and (tensor.output or any(reader not in integer for reader in tensor.readers)):
            cost += tensor.to_floats
        if not made and any(reader in integer for reader in tensor.readers):
            cost += tensor.to_integers
    return cost + FORBIDDEN * sum(a in integer and b not in integer for a, b in problem.requires)


def solve(problem: Problem) -> frozenset[int]:
    """The integer nodes of the cheapest labelling."""
    count = len(problem.floating)
    flow = _Flow(count + 2 + 2 * len(problem.tensors))
    source, sink = count, count + 1  # the source's side is integer
    for node, (floating, integer) in enumerate(zip(problem.floating, problem.integer, strict=True)):
        common = min(floating, integer)
        flow.add(source, node, floating - common)
        flow.add(node, sink, integer - common)
    for number, tensor in enumerate(problem.tensors):
        maker = sink if tensor.maker is None else tensor.maker
        left, entered = count + 2 + 2 * number, count + 3 + 2 * number
        if tensor.maker is not None:
            flow.add(maker, left, tensor.to_floats)
        flow.add(entered, maker, tensor.to_integers)
        for reader in tensor.readers:
            flow.add(left, reader, FORBIDDEN)
            flow.add(reader, entered, FORBIDDEN)
        if tensor.output:
            flow.add(left, sink, FORBIDDEN)
    for a, b in problem.requires:
        flow.add(a, b, FORBIDDEN)
    flow.run(source, sink)
    return frozenset(node for node in flow.reached(source) if node < count)


class _Flow:
    """A directed graph with capacities; edge 2k+1 is the way back of edge 2k."""

    def __init__(self, count: int) -> None:
        self.edges: list[list[int]] = [[] for _ in range(count)]
        self.ends: list[int] = []
        self.free: list[int] = []
        self.levels: dict[int, int] = {}

    def add(self, start: int, end: int, capacity: int) -> None:
        for a, b, free in ((start, end, capacity), (end, start, 0)):
            self.edges[a].append(len(self.ends))
            self.ends.append(b)
            self.free.append(free)

    def run(self, source: int, sink: int) -> None:
        """Push as much as fits: blocking flows along shortest paths until none is left."""
        while sink in self._rank(source):
            unseen = [list(edges) for edges in self.edges]
            while self._push(source, sink, unseen):
                pass

    def reached(self, source: int) -> set[int]:
        """The nodes that free capacity leads to: the source's side of a minimum cut."""
        return set(self._rank(source))

    def _rank(self, source: int) -> dict[int, int]:
        """Steps from the source along free edges."""
        self.levels = {source: 0}
        queue = deque([source])
        while queue:
            node = queue.popleft()
            for edge in self.edges[node]:
                end = self.ends[edge]
                if self.free[edge] > 0 and end not in self.levels:
                    self.levels[end] = self.levels[node] + 1
                    queue.append(end)
        return self.levels

    def _push(self, source: int, sink: int, unseen: list[list[int]]) -> bool:
        """One path from source to sink along rising levels, filled; False when there is none left."""
        path: list[int] = []
        node = source
        while node != sink:
            edge = self._step(node, unseen)
            if edge is not None:
                path.append(edge)
                node = self.ends[edge]
            elif path:
                node = self.ends[path.pop() ^ 1]
                unseen[node].pop()
            else:
                return False
        amount = min(self.free[edge] for edge in path)
        for edge in path:
            self.free[edge] -= amount
            self.free[edge ^ 1] += amount
        return True

    def _step(self, node: int, unseen: list[list[int]]) -> int | None:
        """An edge with room that leads one level on; exhausted ones are dropped."""
        edges = unseen[node]
        while edges:
            edge = edges[-1]
            if self.free[edge] > 0 and self.levels.get(self.ends[edge], -1) == self.levels[node] + 1:
                return edge
            edges.pop()
        return None
