"""Channel shuffles. Reshape, Transpose, Reshape needs equally many channels in every part.

Where the units that stay are not spread equally, the three nodes become one Gather with the same permutation of
what is kept. Ties would do as well, but they chain through every shuffle of a network until one unit is left.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

if TYPE_CHECKING:
    from edgeopt.prune.surgery import Cut

__all__ = ["gather_ragged"]


def gather_ragged(cut: Cut) -> None:
    """Replace each shuffle whose middle would be ragged, in place."""
    for node in list(cut.graph):
        if node.op_type == "Reshape" and cut.is_ragged(node.outputs[0]):
            chain = _chain(node)
            if chain:
                _replace(chain, cut)


def _chain(first: ir.Node) -> list[ir.Node]:
    """Reshape, Transpose, Reshape in a row, each the only reader of the one before; or nothing."""
    nodes = [first]
    for operator in ("Transpose", "Reshape"):
        uses = list(nodes[-1].outputs[0].uses())
        if len(uses) != 1 or uses[0].node.op_type != operator or nodes[-1].outputs[0].is_graph_output():
            return []
        nodes.append(uses[0].node)
    return nodes


def _replace(chain: list[ir.Node], cut: Cut) -> None:
    x, y = chain[0].inputs[0], chain[-1].outputs[0]
    if x is None or cut.length(x) != cut.length(y):
        return
    found = _permutation(chain, cut)
    if found is None:
        return
    axis, order = found
    entering, leaving = cut.masks(x)[axis], cut.masks(y)[axis]
    position = np.cumsum(entering) - 1
    indices = position[order[leaving]].astype(np.int64)
    gather = ir.node(
        "Gather", [x, cut.add(chain[0], "order", indices)], {"axis": axis}, name=f"{chain[0].name}.shuffle"
    )
    gather.outputs[0].shape, gather.outputs[0].type = y.shape, y.type
    name, y.name = y.name, f"{y.name}.replaced"
    gather.outputs[0].name = name
    cut.graph.insert_before(chain[0], gather)
    ir.convenience.replace_all_uses_with(y, gather.outputs[0])
    cut.graph.remove(chain[::-1], safe=True)


def _permutation(chain: list[ir.Node], cut: Cut) -> tuple[int, np.ndarray] | None:
    """(axis, order) so that the chain is `take(x, order, axis)`, found by running it on positions."""
    shape = cut.length(chain[0].inputs[0])  # type: ignore[arg-type]
    positions = np.arange(int(np.prod(shape))).reshape(shape)
    perm = chain[1].attributes.get_ints("perm", tuple(reversed(range(len(cut.length(chain[0].outputs[0]))))))
    moved = positions.reshape(cut.length(chain[0].outputs[0])).transpose(perm).reshape(shape)
    for axis in range(len(shape)):
        stride = int(np.prod(shape[axis + 1 :]))
        line = np.moveaxis(moved, axis, 0).reshape(shape[axis], -1)[:, 0]
        order = line // stride % shape[axis]
        if np.array_equal(np.take(positions, order, axis), moved) and not np.array_equal(moved, positions):
            return axis, order
    return None
