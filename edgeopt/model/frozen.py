"""Which float initializers are numbers of the program and not weights: marked once, where a module is exported.

A graph does not say it: an attention mask that was folded to a constant looks like a bias. The exporter knows, and
a mark on the initializer keeps it through copies and files. `to_torch` does not train what is marked.
"""

from __future__ import annotations

import onnx_ir as ir

__all__ = ["freeze", "freeze_all_but", "is_frozen", "parameter_names"]

MARK = "edgeopt.frozen"
"""Metadata entry of a marked initializer."""

_KIND = "pkg.torch.export.graph_signature.InputSpec.kind"


def parameter_names(exported: ir.Model) -> set[str]:
    """Initializers of a freshly exported graph, nothing folded yet, that are parameters in torch."""
    values = exported.graph.initializers.items()
    return {name for name, value in values if value.metadata_props.get(_KIND) == "PARAMETER"}


def freeze_all_but(graph: ir.Model, parameters: set[str]) -> None:
    """Mark every float initializer that is not one of `parameters`, in place.

    Nothing is marked when no parameters are known: better to train a mask than to train nothing. What the
    exporter noted on the initializers is dropped.
    """
    for name, value in graph.graph.initializers.items():
        value.metadata_props.clear()
        is_float = value.dtype is not None and value.dtype.is_floating_point()
        if parameters and name not in parameters and is_float:
            freeze(value)


def freeze(value: ir.Value) -> None:
    """Mark one initializer, in place."""
    value.metadata_props[MARK] = "1"


def is_frozen(value: ir.Value) -> bool:
    return MARK in value.metadata_props
