"""Nodes that hand their input on unchanged: Identity, and Dropout at inference."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgeopt.model.passes.edit import attribute, bypass, constant_of

__all__ = ["remove_identities"]


def remove_identities(model: ir.Model) -> int:
    """Remove Identity, Dropout that does not train, Cast to the type that is there, and Transpose by
    nothing.
    """
    removed = 0
    for node in list(model.graph):
        source = node.inputs[0] if node.inputs else None
        if source is not None and node.domain == "" and _passes_through(node, source):
            removed += bypass(node, source)
    return removed


def _passes_through(node: ir.Node, source: ir.Value) -> bool:
    match node.op_type:
        case "Identity":
            return True
        case "Dropout":
            training = node.inputs[2] if len(node.inputs) > 2 else None
            flag = constant_of(training)
            return training is None or (flag is not None and not np.any(flag))
        case "Cast":
            return source.dtype is not None and attribute(node, "to") == source.dtype.value
        case "Transpose":
            perm = attribute(node, "perm")
            return perm is not None and list(perm) == sorted(perm)  # type: ignore[call-overload]
    return False
