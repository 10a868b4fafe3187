"""The graph as a trainable torch module, and back.

`to_torch` writes one fx `call_function` node per ONNX node. What training has to know is decided here:

- Trained tensors are parameters: the operands that are weights by their place (a Conv's kernel, a
  LayerNormalization's scale), and every other float tensor of more than one element that is computed with
  (a class token, a bias written as Add). Lone numbers (the 0.5 of a Gelu) are constants, and so is what the
  export marked as no weight (an attention mask).
- BatchNormalization's running statistics are buffers; `module.train()` and `.eval()` switch it. Statistics that the
  graph computes, as a convolution that standardizes its weight has them, are no running ones.
- Operands that say *how* (axes, pads, a Reshape's target) are baked in as Python numbers.
- Shape arithmetic stays on the CPU, so that a dynamic batch costs an accelerator no wait.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import fx, nn

from edgeopt.errors import UsageError
from edgeopt.model.frozen import is_frozen
from edgeopt.model.model import Model
from edgeopt.model.torch_module import SOURCE, OnnxModule, Source
from edgeopt.model.torch_ops import Operator, find_operator
from edgeopt.model.torch_ops.creation import host_tensor, to_device
from edgeopt.model.torch_ops.dtypes import tensor_from, to_array, torch_dtype
from edgeopt.model.torch_state import free_path, place, rename_state

__all__ = ["from_torch", "to_torch", "trained_names"]

WEIGHTS: dict[str, tuple[int, ...]] = {
    "BatchNormalization": (1, 2),
    "Conv": (1, 2),
    "ConvTranspose": (1, 2),
    "DeformConv": (1, 3),
    "FakeQuantize": (1,),
    "FakeQuantizeBias": (0,),
    "FakeQuantizeWeight": (0, 1),
    "GRU": (1, 2, 3),
    "Gather": (0,),
    "Gemm": (0, 1, 2),
    "GroupNormalization": (1, 2),
    "InstanceNormalization": (1, 2),
    "LSTM": (1, 2, 3, 7),
    "LayerNormalization": (1, 2),
    "MatMul": (0, 1),
    "PRelu": (1,),
    "RMSNormalization": (1,),
    "RNN": (1, 2, 3),
}
"""Inputs that are trained whatever their size."""

CONSTANTS: dict[str, tuple[int, ...]] = {
    "BatchNormalization": (3, 4),
    "CastLike": (1,),
    "DequantizeLinear": (0, 1, 2),
    "QuantizeLinear": (1, 2),
}
"""Inputs that are never trained, besides those that are baked in."""

HOST_LIMIT = 1024
"""A constant of more elements is data, not shape arithmetic."""


def to_torch(model: Model) -> OnnxModule:
    """`model` as a module, in evaluation mode: `module(x, ...)` takes the graph's inputs in order and returns
    its output, or a tuple of them.

    `state_dict()` has the initializers' names. Raises UsageError naming the node for an operator, a form or a
    data type that is not covered.
    """
    module = _Builder(model).build()
    module.meta[SOURCE] = Source(model)
    return module.eval()


def from_torch(module: nn.Module, model: Model) -> Model:
    """A copy of `model` with the values that `module`, which `to_torch(model)` made, has now.

    Raises UsageError naming the tensor when one is missing or has another shape or type.
    """
    result = model.copy()
    state = module.state_dict()
    for name, value in result.graph.graph.initializers.items():
        if value.const_value is None:
            continue
        if name not in state:
            raise UsageError(
                f"the module has no tensor {name!r}", fix="give the module that to_torch made of this model"
            )
        array = _checked(name, state[name], value.const_value)
        if array.tobytes() != value.const_value.numpy().tobytes():
            value.const_value = ir.tensor(array, dtype=value.const_value.dtype, name=name)
    return result


def trained_names(model: Model) -> set[str]:
    """Initializers that `to_torch` makes parameters."""
    return {name for name, value in model.graph.graph.initializers.items() if _is_trained(value)}


def _checked(name: str, tensor: torch.Tensor, old: ir.TensorProtocol) -> np.ndarray:
    if tuple(tensor.shape) != tuple(old.shape.numpy()) or tensor.dtype != torch_dtype(old.dtype):
        found = f"{tensor.dtype} {list(tensor.shape)}"
        raise UsageError(
            f"tensor {name!r} is {found} in the module and {old.dtype} {list(old.shape.numpy())} in the model",
            fix="train it as it is; prune or convert the ONNX model instead",
        )
    return to_array(tensor, old.dtype.numpy())


def _is_trained(value: ir.Value) -> bool:
    if value.const_value is None or not value.const_value.dtype.is_floating_point():
        return False
    roles = [_role(use.node, use.idx) for use in value.uses()]
    if "constant" in roles or not roles or is_frozen(value):
        return False
    return "weight" in roles or value.const_value.size > 1


def _role(node: ir.Node, index: int) -> str:
    operator = find_operator(node.domain, node.op_type)
    if operator is None or index in CONSTANTS.get(node.op_type, ()) or index in operator.static:
        return "constant"
    return "weight" if index in WEIGHTS.get(node.op_type, ()) else "operand"


class _Builder:
    """Writes the fx graph of one model, node by node."""

    def __init__(self, model: Model) -> None:
        self.graph = model.graph.graph
        self.opset = model.graph.opset_imports.get("", 1)
        self.root = nn.Module()
        self.paths: dict[ir.Value, str] = {}
        self.tensors: dict[str, torch.Tensor] = {}
        self.fx = fx.Graph()
        self.nodes: dict[ir.Value, fx.Node] = {}
        self.host: set[ir.Value] = set()
        self.anchor: fx.Node | None = None

    def build(self) -> OnnxModule:
        self._hold_initializers()
        inputs = [value for value in self.graph.inputs if value.name not in self.graph.initializers]
        for number, value in enumerate(inputs):
            # a place, not the graph's name: `input.1` is no Python argument, `self` is another
            self.nodes[value] = self.fx.placeholder(f"input_{number}")
            self.anchor = self.anchor or self.nodes[value]
        for node in self.graph:
            self._add(node)
        results = [self._tensor(value) for value in self.graph.outputs]
        self.fx.output(results[0] if len(results) == 1 else tuple(results))
        return self._module()

    def _hold_initializers(self) -> None:
        for number, value in enumerate(self.graph.initializers.values()):
            assert value.const_value is not None
            tensor = _tensor_of(value.const_value, f"initializer {value.name!r}")
            path = free_path(self.root, value.name or "", f"initializer_{number}")
            self.tensors[path] = nn.Parameter(tensor) if _is_trained(value) else tensor
            self.paths[value] = path
            place(self.root, path, self.tensors[path])

    def _module(self) -> OnnxModule:
        """A GraphModule takes from its root what the graph reads; what was baked in is put beside it."""
        module = OnnxModule(self.root, self.fx, class_name="OnnxModule")
        present = module.state_dict()
        for path, tensor in self.tensors.items():
            if path not in present:
                place(module, path, tensor)
        rename_state(module, {path: value.name or "" for value, path in self.paths.items() if path != value.name})
        return module

    def _add(self, node: ir.Node) -> None:
        """Write one node and a getitem for each of its outputs where there are several."""
        operator = _operator_of(node)
        host = self._is_host(node)
        arguments = [self._argument(operator, node, index, host) for index in range(len(node.inputs))]
        keywords = self._attributes(node, operator)
        keywords |= self._wanted(node, operator)
        name = node.outputs[0].name or node.op_type
        result = self.fx.create_node("call_function", operator.function, tuple(arguments), keywords, name=name)
        result.meta["onnx"] = node.name
        if host:
            self.host.update(node.outputs)
        if len(node.outputs) == 1:
            self.nodes[node.outputs[0]] = result
            return
        for index, output in enumerate(node.outputs):
            if output.name:
                self.nodes[output] = self.fx.call_function(_item, (result, index))

    def _is_host(self, node: ir.Node) -> bool:
        """Shape arithmetic: computed from shapes and small constants alone."""
        if node.op_type in ("Shape", "Size"):
            return True
        inputs = [value for value in node.inputs if value is not None]
        if not any(value in self.host for value in inputs):
            return False
        return all(value in self.host or _is_small_constant(value) for value in inputs)

    def _argument(self, operator: Operator, node: ir.Node, index: int, host: bool) -> Any:
        value = node.inputs[index]
        if value is None or value.name == "":
            return None
        constant = self._constant(value)
        if index in operator.static:
            return self.nodes[value] if constant is None else constant.numpy().tolist()
        if host and constant is not None and node.op_type not in ("Shape", "Size"):
            return self.fx.call_function(host_tensor, (constant.numpy().tolist(), torch_dtype(constant.dtype)))
        if value in self.host and not host:
            return self._to_device(value)
        return self._tensor(value)

    def _to_device(self, value: ir.Value) -> fx.Node:
        if self.anchor is None:
            return self.nodes[value]
        return self.fx.call_function(to_device, (self.nodes[value], self.anchor))

    def _tensor(self, value: ir.Value) -> fx.Node:
        if value not in self.nodes:
            self.nodes[value] = self.fx.create_node("get_attr", self.paths[value])
        return self.nodes[value]

    def _constant(self, value: ir.Value) -> ir.TensorProtocol | None:
        return ir.convenience.get_const_tensor(value)

    def _attributes(self, node: ir.Node, operator: Operator) -> dict[str, Any]:
        keywords = {}
        accepted = _accepted(operator)
        for name, attribute in node.attributes.items():
            if name not in accepted:
                raise UsageError(f"its attribute {name!r} is not covered", where=_where(node), fix="export without it")
            keywords[name] = self._attribute(node, name, attribute)
        return keywords

    def _attribute(self, node: ir.Node, name: str, attribute: ir.Attr) -> Any:
        if attribute.type == ir.AttributeType.TENSOR:
            target = f"attribute_of_{len(self.nodes)}_{name}"
            self.root.register_buffer(target, _tensor_of(attribute.value, _where(node)), persistent=False)
            return self.fx.create_node("get_attr", target)
        value = attribute.value
        return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else value

    def _wanted(self, node: ir.Node, operator: Operator) -> dict[str, Any]:
        available: dict[str, Any] = {
            "outputs": len(node.outputs),
            "opset": node.version or self.opset,
            "stored": [value is not None and value in self.paths for value in node.inputs],
            "types": [value.dtype if value is not None else None for value in (*node.inputs, *node.outputs)],
        }
        return {
            name: self.fx.create_node("get_attr", "training") if name == "training" else available[name]
            for name in operator.wants
        }


def _item(values: Sequence[torch.Tensor], index: int) -> torch.Tensor:
    return values[index]


def _operator_of(node: ir.Node) -> Operator:
    """The table's entry, or a UsageError that names node and operator."""
    operator = find_operator(node.domain, node.op_type)
    graphs = any(a.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for a in node.attributes.values())
    if operator is None or graphs:
        domain = f"{node.domain}." if node.domain not in ("", "ai.onnx") else ""
        why = "control flow, sequences and strings have no trainable form" if graphs else "is not covered"
        raise UsageError(
            f"operator {domain}{node.op_type} cannot be trained in torch ({why})",
            where=_where(node),
            fix="export the model without it, or add its function to edgeopt/model/torch_ops",
        )
    return operator


def _accepted(operator: Operator) -> set[str]:
    """Names of the attributes it takes; a torch builtin, which has no signature, takes none."""
    try:
        return set(inspect.signature(operator.function).parameters)
    except ValueError:
        return set()


def _where(node: ir.Node) -> str:
    return f"node {node.name or node.outputs[0].name!r} ({node.op_type})"


def _is_small_constant(value: ir.Value) -> bool:
    constant = ir.convenience.get_const_tensor(value)
    return constant is not None and constant.size <= HOST_LIMIT and not _is_trained(value)


def _tensor_of(value: ir.TensorProtocol, where: str) -> torch.Tensor:
    try:
        return tensor_from(value)
    except KeyError:
        raise UsageError(
            f"tensors of type {value.dtype} have no torch form", where=where, fix="convert the model to float32 first"
        ) from None
