"""What a residual branch is added to: a layer at its end can take back the error that is there already."""

from __future__ import annotations

from collections.abc import Collection

from edgeopt.model.layerwise.segments import Segments

__all__ = ["added_to"]


def added_to(
    output: str, graph: Segments, real: Segments, rough: Segments, pending: Collection[str]
) -> tuple[str, str] | None:
    """What `output`, a value of `graph` (which is one of the other two), is added to: its name in the `real` graph and
    in the `rough` one. None where it is not added to anything, or where nodes that are `pending` would still change
    that.
    """
    readers = graph.readers(output)
    if len(readers) != 1 or readers[0].op_type != "Add":
        return None
    name, place = readers[0].name, 1 - list(readers[0].input).index(output)
    if not (real.has_node(name) and rough.has_node(name)):
        return None
    true, found = real.node(name).input[place], rough.node(name).input[place]
    if real.is_constant(true) or rough.is_constant(found) or found == output:
        return None
    return None if rough.ancestors(found).intersection(pending) else (true, found)
