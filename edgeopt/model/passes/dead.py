"""Nodes and constants that no output depends on."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass, RemoveUnusedOpsetsPass

__all__ = ["remove_dead"]


def remove_dead(model: ir.Model) -> int:
    """Remove them; 1 when something was removed."""
    changed = RemoveUnusedNodesPass()(model).modified
    return int(RemoveUnusedOpsetsPass()(model).modified or changed)
