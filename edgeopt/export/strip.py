"""Take out of a file what no runtime reads: names, shapes of inner values, doc strings, attributes at their
default, opsets of domains that no node is of.

On a network of a hundred kilobytes these are a fifth of the file. The names of the model's inputs and
outputs stay, since callers use them, and so does the metadata that edgeopt reads.
"""

from __future__ import annotations

import string
from collections.abc import Iterator
from itertools import count

import onnx
import onnx.helper
import onnx_ir as ir
from onnx_ir.passes.common import ClearMetadataAndDocStringPass, DeduplicateInitializersPass

from edgeopt.model.memory import constant_values
from edgeopt.model.model import Model
from edgeopt.model.profile import layer_name

__all__ = ["strip"]

DIGITS = string.ascii_letters + string.digits
UNIT = {"dilations": 1, "pads": 0, "strides": 1}
"""Attributes of Conv and pooling that default to all of this number, which schemas state in prose only."""
SMALL = 1024
"""Constants up to this many elements that are equal become one."""


def strip(model: Model) -> Model:
    """A new model that computes the same from a smaller file. Raises nothing."""
    changed = model.copy()
    graph = changed.graph
    ClearMetadataAndDocStringPass()(graph)
    DeduplicateInitializersPass(size_limit=SMALL)(graph)
    graph.producer_name = graph.producer_version = graph.doc_string = graph.domain = None
    for node in graph.graph.all_nodes():
        _drop_defaults(node, graph.opset_imports)
    _drop_domains(graph)
    _shorten_names(graph)
    return changed


def _drop_domains(model: ir.Model) -> None:
    """Forget the opsets of domains that neither the graph nor a function has a node of."""
    used = {node.domain for node in model.graph.all_nodes()}
    for function in model.functions.values():
        used |= {function.domain, *(node.domain for node in function)}
    for imports in (model.opset_imports, model.graph.opset_imports):
        for domain in set(imports) - used - {""}:
            imports.pop(domain, None)


def _shorten_names(model: ir.Model) -> None:
    """One or two letters for each value; inputs and outputs keep theirs, inner values lose their shapes."""
    graph = model.graph
    _keep_layer_names(graph)
    rim = [*graph.inputs, *graph.outputs]
    taken = {value.name for value in rim} | {
        value.name for node in graph.all_nodes() for value in node.outputs if node.graph is not graph
    }
    names = (name for name in _short() if name not in taken)
    constants = [value for value in graph.initializers.values() if value not in rim]
    inner = [value for node in graph for value in node.outputs if value.name and value not in rim]
    for value in constants:  # out of the way first: no name may be there twice at any moment
        value.name = f"constant {value.name}"
    for value in (*inner, *constants):
        value.shape = value.type = None  # onnx_ir writes one entry of value_info for each that has them
        value.name = next(names)
    graph.name = "g"


def _keep_layer_names(graph: ir.Graph) -> None:
    """A layer that has weights is called as in torch, so that a report by layers stays readable; others
    lose theirs.
    """
    taken: set[str] = set()
    constants = constant_values(graph)
    for node in graph.all_nodes():
        stored = node.op_type in ("QuantizeLinear", "DequantizeLinear") or constants.issuperset(node.outputs)
        name = "" if stored else layer_name(node)
        node.name = name if name and name not in taken else None
        taken.add(name)


def _short() -> Iterator[str]:
    """a, b ... 9, aa, ab ..."""
    for number in count():
        name = DIGITS[number % len(DIGITS)]
        while number >= len(DIGITS):
            number = number // len(DIGITS) - 1
            name = DIGITS[number % len(DIGITS)] + name
        yield name


def _drop_defaults(node: ir.Node, opsets: dict[str, int]) -> None:
    try:
        schema = onnx.defs.get_schema(node.op_type, opsets.get(node.domain, 1), node.domain)
    except onnx.defs.SchemaError:
        return
    for name, attribute in list(node.attributes.items()):
        if name not in schema.attributes or schema.attributes[name].required:
            continue
        default = schema.attributes[name].default_value
        stated = onnx.helper.get_attribute_value(default) if default.name else None
        stated = stated.decode() if isinstance(stated, bytes) else stated
        unit = name in UNIT and all(number == UNIT[name] for number in attribute.value)
        if unit or (stated is not None and attribute.value == stated):
            node.attributes.pop(name)
