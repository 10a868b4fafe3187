"""Labels: which units lie along the dims of a tensor.

Every dim has a label vector of its own, so that two prunable dims of one tensor stay independent. Only where a
Reshape has split one dim into several do they share a joint label array, until they are merged again or an
operator needs one of them to be whole.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["Block", "Blocks", "place", "select"]


@dataclass(frozen=True, eq=False)
class Block:
    """`ids[i, j, ...]` is the label at index i of dim `dims[0]`, j of `dims[1]`, ...: almost always one dim."""

    dims: tuple[int, ...]
    ids: np.ndarray

    def moved(self, position: dict[int, int]) -> Block:
        """The same labels on dims that have been renumbered."""
        return Block(tuple(position[dim] for dim in self.dims), self.ids)

    def axis(self, dim: int) -> int:
        """The axis of `ids` that belongs to tensor dim `dim`."""
        return self.dims.index(dim)


Blocks = tuple[Block, ...]
"""Disjoint blocks of one tensor; a dim that is in none of them is fixed."""


def place(block: Block, dims: tuple[int, ...], shape: tuple[int, ...]) -> np.ndarray:
    """The block's ids as an array over `dims` (ascending, lengths `shape`), repeated along dims it does not have."""
    order = sorted(range(len(block.dims)), key=lambda axis: block.dims[axis])
    ids = block.ids.transpose(order)
    present = sorted(block.dims)
    full = [ids.shape[present.index(dim)] if dim in present else 1 for dim in dims]
    return np.broadcast_to(ids.reshape(full), shape)


def select(blocks: Blocks, dim: int, indices: np.ndarray) -> Blocks:
    """Labels after `take(tensor, indices, dim)`; indices 1-D."""
    return tuple(
        Block(block.dims, np.take(block.ids, indices, block.axis(dim))) if dim in block.dims else block
        for block in blocks
    )
