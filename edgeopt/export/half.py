"""float32 -> float16: weights at half the bytes, for runtimes with half-precision arithmetic.

Every operator whose ONNX schema takes float16 gets it; the others (Resize's scales, operators of other
domains, control flow with all that its bodies read) and the nodes that the caller names keep float32 between
Casts. The model's own inputs and outputs stay float32, with a Cast at the rim, so that callers need not
change. onnxruntime ships a converter too; it leaves the nodes out of order and clamps weights that do not fit
without a word.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import numpy as np
import onnx
import onnx_ir as ir

from edgeopt.export.overflow import LARGEST_HALF
from edgeopt.model.model import Model
from edgeopt.model.passes import remove_dead
from edgeopt.model.shapes import infer_shapes

__all__ = ["to_half"]

FLOAT, HALF = ir.DataType.FLOAT, ir.DataType.FLOAT16
MAKES_FLOAT = frozenset({"Cast", "ConstantOfShape"})
"""Their output type is an attribute."""


def to_half(model: Model, keep: Collection[str] = ()) -> Model:
    """A new model that computes in float16; in float32 at its inputs and outputs, and in the nodes whose first
    output is named in `keep`.

    Numbers beyond +-65504 become that: right for bounds and mask fills, which mean "very large"; which nodes to
    keep for their weights and activations say `risky_by_magnitude` and `risky_by_rule`.
    """
    changed = infer_shapes(model, None)
    _Converter(changed.graph, keep).convert()
    remove_dead(changed.graph)
    return changed


class _Converter:
    """One graph under conversion, with the casts and constants made so far."""

    def __init__(self, model: ir.Model, keep: Collection[str] = ()) -> None:
        self.keep = frozenset(keep)
        self.graph = model.graph
        self.opsets = model.opset_imports
        self.made: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}

    def convert(self) -> None:
        for node in list(self.graph):
            self._convert_node(node)
        for position, value in enumerate(list(self.graph.outputs)):
            if value.dtype == HALF:
                self._keep_output_float(position, value)

    def _convert_node(self, node: ir.Node) -> None:
        wanted = frozenset() if node.outputs[0].name in self.keep else _half_inputs(node, self.opsets)
        self._keep_captured(node)
        for index, value in enumerate(node.inputs):
            if value is not None and value.dtype in (FLOAT, HALF):
                node.replace_input_with(index, self._as(value, HALF if index in wanted else FLOAT, node))
        for index, output in enumerate(node.outputs):
            if output.dtype == FLOAT and _makes_half(node, index, wanted, self.opsets):
                output.dtype = HALF
        if node.op_type in MAKES_FLOAT and node.outputs[0].dtype == HALF:
            _set_made_type(node)

    def _keep_captured(self, node: ir.Node) -> None:
        """What the bodies of control flow read of this graph stays, or becomes again, float32."""
        for inner in _inner_nodes(node):
            for index, value in enumerate(inner.inputs):
                if value is not None and value.graph is self.graph and value.dtype == HALF:
                    inner.replace_input_with(index, self._as(value, FLOAT, node))

    def _as(self, value: ir.Value, dtype: ir.DataType, reader: ir.Node) -> ir.Value:
        """`value` in `dtype`: itself, a converted constant, or a Cast before the first reader."""
        if value.dtype == dtype:
            return value
        if (value, dtype) not in self.made:
            tensor = value.const_value
            self.made[value, dtype] = (
                self._cast(value, dtype, reader) if tensor is None else self._constant(value, tensor.numpy())
            )
        return self.made[value, dtype]

    def _constant(self, value: ir.Value, array: np.ndarray) -> ir.Value:
        bounded = np.where(np.isfinite(array), np.clip(array, -LARGEST_HALF, LARGEST_HALF), array)
        name = f"{value.name}.half" if value.is_graph_output() else value.name or "constant"
        tensor = ir.tensor(bounded.astype(np.float16), name=name)
        new = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(HALF), const_value=tensor)
        if name == value.name:
            self.graph.initializers.pop(name)
            value.name = f"{name}.float"
            self.graph.register_initializer(value)
        self.graph.register_initializer(new)
        return new

    def _cast(self, value: ir.Value, dtype: ir.DataType, reader: ir.Node) -> ir.Value:
        node = ir.node("Cast", [value], attributes={"to": dtype.value})
        cast = node.outputs[0]
        cast.name = f"{value.name}.{'half' if dtype == HALF else 'float'}"
        cast.shape, cast.dtype = value.shape, dtype
        self.graph.insert_before(reader, [node])
        return cast

    def _keep_output_float(self, position: int, value: ir.Value) -> None:
        name = value.name
        value.name = f"{name}.half"
        node = ir.node("Cast", [value], attributes={"to": FLOAT.value})
        output = node.outputs[0]
        output.name, output.shape, output.dtype = name, value.shape, FLOAT
        self.graph.append(node)
        self.graph.outputs[position] = output


def _inner_nodes(node: ir.Node) -> Iterator[ir.Node]:
    """The nodes in the bodies of a control flow node, at any depth."""
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            yield from attribute.as_graph().all_nodes()
        elif attribute.type == ir.AttributeType.GRAPHS:
            for graph in attribute.as_graphs():
                yield from graph.all_nodes()


def _half_inputs(node: ir.Node, opsets: dict[str, int]) -> frozenset[int]:
    """Positions of the float inputs that the operator takes in float16."""
    schema = _schema(node, opsets)
    if schema is None or next(_inner_nodes(node), None) is not None:
        return frozenset()
    return frozenset(
        index
        for index, value in enumerate(node.inputs)
        if value is not None
        and value.dtype in (FLOAT, HALF)
        and "tensor(float16)" in _allowed(schema, _formal(schema.inputs, index).type_str)
    )


def _makes_half(node: ir.Node, index: int, wanted: frozenset[int], opsets: dict[str, int]) -> bool:
    """Whether this float output follows the type of an input that is float16 now, or an attribute."""
    schema = _schema(node, opsets)
    if schema is None:
        return False
    kind = _formal(schema.outputs, index).type_str
    if node.op_type in MAKES_FLOAT:
        return "tensor(float16)" in _allowed(schema, kind)
    return any(_formal(schema.inputs, position).type_str == kind for position in wanted)


def _set_made_type(node: ir.Node) -> None:
    if node.op_type == "Cast":
        node.attributes["to"] = ir.AttrInt64("to", HALF.value)
        return
    filled = node.attributes.get("value")
    array = filled.as_tensor().numpy() if filled is not None else np.zeros(1, np.float32)
    node.attributes["value"] = ir.AttrTensor("value", ir.tensor(array.astype(np.float16)))


def _schema(node: ir.Node, opsets: dict[str, int]) -> onnx.defs.OpSchema | None:
    try:
        return onnx.defs.get_schema(node.op_type, opsets.get(node.domain, 1), node.domain)
    except onnx.defs.SchemaError:
        return None


def _formal(parameters: Sequence[onnx.defs.OpSchema.FormalParameter], index: int) -> onnx.defs.OpSchema.FormalParameter:
    """The declaration of a parameter; the last one repeats in variadic operators."""
    return parameters[min(index, len(parameters) - 1)]


def _allowed(schema: onnx.defs.OpSchema, type_str: str) -> list[str]:
    for constraint in schema.type_constraints:
        if constraint.type_param_str == type_str:
            return list(constraint.allowed_type_strs)
    return [type_str]
