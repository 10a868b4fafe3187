"""What will be quantized, as data: the answer of placement, the order for `insert`."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

__all__ = ["Plan", "Point", "Use"]

Use = tuple[str, int]
"""Node name and input position."""


@dataclass(frozen=True)
class Point:
    """A tensor that gets a Q/DQ pair, and who reads the DQ."""

    tensor: str
    group: str
    """Points of one group share their scale and zero point; the group is named after its first tensor."""
    uses: tuple[Use, ...]
    graph_output: bool = False


@dataclass(frozen=True)
class Plan:
    """What will be quantized, for one graph; names refer to that graph and its copies."""

    points: tuple[Point, ...]
    sources: dict[str, tuple[str, ...]]
    """Group -> the tensors whose values make its range; the other members only repeat them."""
    weights: tuple[str, ...]
    """Nodes whose weight (input 1), and bias where the tier wants it, become integers."""
    folded: dict[str, str]
    """Clip node -> the node it is part of."""
    integer: dict[str, str]
    """Node name -> operator type, of the nodes that will run in integers."""
    floating: dict[str, str] = field(default_factory=dict)
    """Node name -> why it stays in float."""

    @property
    def observed(self) -> tuple[str, ...]:
        """Tensors that need a range, each once."""
        return tuple(dict.fromkeys(tensor for members in self.sources.values() for tensor in members))

    def count_by_operator(self) -> dict[str, int]:
        """Operator type -> how many run in integers."""
        return dict(sorted(Counter(self.integer.values()).items()))
