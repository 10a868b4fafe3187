"""Read an int8 Q/DQ graph as a program.

The graph says in float what the device does in integers. Two things are tracked for each value:

- The int8 tensor that holds it and the scale it is read with. DequantizeLinear hands its integer input on, and an
  operator writes what the QuantizeLinear after it makes.
- The order its elements lie in. Kernels work on channels-last images, ONNX counts channels first. `Value.index`
  holds, for each position in memory, the number that ONNX gives to the element. So reshapes and transpositions only
  relabel, a dense layer after a Flatten takes its weights in the order that is there, and elements move only where an
  operator needs it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edgeopt.errors import StageFailed
from edgeopt.mcu.program import Copy, Image, Op, Program, Table, Tensor
from edgeopt.model.model import Model
from edgeopt.model.passes.edit import attribute, constant_of
from edgeopt.model.shapes import infer_shapes

__all__ = ["Constant", "Reader", "Result", "Value", "no_kernel", "read_program"]


@dataclass(frozen=True, eq=False)
class Value:
    """A quantized value: the tensor that holds it, its ONNX shape (batch 1 included) and the order of its elements."""

    tensor: Tensor
    shape: tuple[int, ...]
    index: np.ndarray
    """Position in memory -> number of the element in ONNX's order."""


@dataclass(frozen=True, eq=False)
class Constant:
    """Integers in the file, and the float32 scale and the zero point (per tensor or per channel) they are read with."""

    integers: np.ndarray
    scale: np.ndarray
    zero: np.ndarray


@dataclass(frozen=True, eq=False)
class Result:
    """What an operator has to write: its quantized output, its ONNX shape, and the range that a folded clip leaves."""

    value: ir.Value
    shape: tuple[int, ...]
    scale: np.float32
    zero: int
    low: int = -128
    high: int = 127


def read_program(model: Model) -> Program:
    """The program of an int8 Q/DQ model with one input and one output.

    Raises StageFailed naming the first operator that has no kernel.
    """
    return Reader(infer_shapes(model, 1)).read()


class Reader:
    """One graph being read, with the operators found so far."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.graph = model.graph.graph
        self.ops: list[Op] = []
        self.values: dict[ir.Value, Value] = {}
        self.constants: dict[ir.Value, Constant] = {}
        self._written: set[ir.Node] = set()
        self._counts: dict[str, int] = {}
        self._clips: list[Op] = []

    def read(self) -> Program:
        from edgeopt.mcu.operators import READERS

        self._check_rim()
        for node in self.graph:
            if node in self._written:
                continue
            if node.op_type == "QuantizeLinear":
                self._read_quantize(node)
            elif node.op_type == "DequantizeLinear":
                self._read_dequantize(node)
            elif node.op_type in READERS:
                READERS[node.op_type](self, node)
                self.ops += self._clips
                self._clips = []
            else:
                raise no_kernel(node, "the C code has no kernel for this operator")
        return self._program()

    # What the operators' readers use.

    def value(self, node: ir.Node, position: int) -> Value:
        """A quantized input of `node`, computed or constant. Raises StageFailed when it is float."""
        source = node.inputs[position]
        if source in self.constants:
            self.values.setdefault(source, self._as_value(node, self.constants[source]))
        if source is None or source not in self.values:
            raise no_kernel(node, f"its input {position} is not quantized")
        return self.values[source]

    def _as_value(self, node: ir.Node, constant: Constant) -> Value:
        if constant.integers.dtype != np.int8 or constant.scale.size != 1:
            raise no_kernel(node, "a constant operand has to be int8 with one scale")
        data = constant.integers.ravel()
        scale, zero = np.float32(constant.scale.reshape(())), int(constant.zero.reshape(-1)[0])
        tensor = Tensor(self.name("constant"), data.size, scale, zero, data)
        return Value(tensor, constant.integers.shape, np.arange(data.size))

    def constant(self, node: ir.Node, position: int) -> Constant | None:
        """A dequantized constant input of `node`; None when there is no such input or it is computed."""
        source = node.inputs[position] if position < len(node.inputs) else None
        return None if source is None else self.constants.get(source)

    def result(self, node: ir.Node) -> Result:
        """What `node` has to write: the QuantizeLinear that reads it, through one Relu or Clip at most."""
        output, low, high = node.outputs[0], -np.inf, np.inf
        readers = [reader for reader, _ in output.uses()]
        if len(readers) == 1 and readers[0].op_type in ("Relu", "Clip") and not output.is_graph_output():
            low, high = clip_bounds(readers[0])
            self._written.add(readers[0])
            output = readers[0].outputs[0]
            readers = [reader for reader, _ in output.uses()]
        if len(readers) != 1 or readers[0].op_type != "QuantizeLinear" or output.is_graph_output():
            raise no_kernel(node, "its output is not quantized")
        quantize = readers[0]
        self._written.add(quantize)
        scale, zero = _scale_and_zero(quantize)
        bounds = (int(np.clip(np.rint(np.float32(bound) / scale) + zero, -128, 127)) for bound in (low, high))
        return Result(quantize.outputs[0], static_shape(node.outputs[0], node), scale, zero, *bounds)

    def name(self, kind: str) -> str:
        """`conv1`, `conv2` ...: names in the C text."""
        self._counts[kind] = self._counts.get(kind, 0) + 1
        return f"{kind}{self._counts[kind]}"

    def layer(self, node: ir.Node, name: str) -> str:
        """What the user knows the operator by: the torch name of its weights, or the node's, or the C name."""
        for source in node.inputs[1:2]:
            producer = source.producer() if source is not None else None
            weight = producer.inputs[0] if producer is not None and producer.inputs else None
            if weight is not None and weight.const_value is not None and weight.name and "." in weight.name:
                return weight.name.removesuffix("_quantized").removesuffix(".weight")
        return node.name or name

    def write(self, result: Result, kind: str, index: np.ndarray | None = None) -> tuple[str, Tensor]:
        """The tensor for an operator's result, known from now on; `index` as in Value, ONNX's own order by default."""
        name = self.name(kind)
        tensor = Tensor(name, int(np.prod(result.shape)), result.scale, result.zero)
        order = np.arange(tensor.size) if index is None else index
        held = tensor if (result.low, result.high) == (-128, 127) else self._clip(tensor, result)
        self.values[result.value] = Value(held, result.shape, order)
        return name, tensor

    def _clip(self, tensor: Tensor, result: Result) -> Tensor:
        """The bounds of a folded clip that the grid does not have at its ends: a table, after the operator."""
        name = self.name("clip")
        output = Tensor(name, tensor.size, tensor.scale, tensor.zero)
        values = np.arange(-128, 128).clip(result.low, result.high).astype(np.int8)
        self._clips.append(Table(layer=name, inputs=(tensor,), output=output, values=values))
        return output

    def as_image(self, value: Value) -> tuple[Tensor, Image]:
        """[1, channels, height, width] or [1, channels, width] laid out channels last; moved when it is not."""
        tensor = self.ordered(value, channels_last(value.shape))
        _, channels, *sides = value.shape
        height, width = sides if len(sides) == 2 else (1, *sides)
        return tensor, Image(height, width, channels)

    def ordered(self, value: Value, index: np.ndarray) -> Tensor:
        """The value's tensor with its elements in the order `index`: itself, or a copy that is made here."""
        if np.array_equal(value.index, index):
            return value.tensor
        where = inverse(value.index)
        name, data = self.name("move"), value.tensor.data
        moved = None if data is None else data[where[index]]
        output = Tensor(name, value.tensor.size, value.tensor.scale, value.tensor.zero, moved)
        if moved is not None:
            return output
        self.ops.append(Copy(layer=name, inputs=(value.tensor,), output=output, index=where[index]))
        return output

    # The graph's own part.

    def _read_quantize(self, node: ir.Node) -> None:
        """The model's input, or a value quantized once more: a table when scales differ, else a second name."""
        source = node.inputs[0]
        scale, zero = _scale_and_zero(node)
        if source in self.graph.inputs:
            shape = static_shape(source, node)
            size = int(np.prod(shape))
            self.values[node.outputs[0]] = Value(Tensor("input", size, scale, zero), shape, channels_last(shape))
            return
        value = self.values.get(source) if source is not None else None
        if value is None:
            raise no_kernel(node, "it quantizes a value that no kernel here makes")
        if (value.tensor.scale, value.tensor.zero) != (scale, zero):
            from edgeopt.mcu.operators import requantize

            value = requantize(self, node, value, scale, zero)
        self.values[node.outputs[0]] = value

    def _read_dequantize(self, node: ir.Node) -> None:
        source = node.inputs[0]
        integers = constant_of(source)
        if integers is not None:
            scale = np.asarray(constant_of(node.inputs[1]), np.float32)
            zero = constant_of(node.inputs[2]) if len(node.inputs) > 2 else None
            self.constants[node.outputs[0]] = Constant(integers, scale, np.asarray(0 if zero is None else zero))
            return
        if source not in self.values:
            raise no_kernel(node, "it reads integers that no kernel here makes")
        value = self.values[source]
        if (value.tensor.scale, value.tensor.zero) != _scale_and_zero(node):
            raise no_kernel(node, "it reads a tensor with another scale than it was written with")
        self.values[node.outputs[0]] = value

    def _check_rim(self) -> None:
        if len(self.model.inputs) != 1 or len(self.model.outputs) != 1:
            raise StageFailed(
                f"the model has {len(self.model.inputs)} inputs and {len(self.model.outputs)} outputs",
                where="C code",
                fix="the C code takes one of each",
            )

    def _program(self) -> Program:
        output = self.graph.outputs[0]
        if output not in self.values:
            raise StageFailed(
                f"the output {output.name!r} is not quantized", where="C code", fix="quantize for the mcu tier"
            )
        value = self.values[output]
        images = channels_last(value.shape)
        last = np.array_equal(value.index, images)
        tensor = value.tensor if last else self.ordered(value, np.arange(images.size))
        source = next(value for value in self.values.values() if value.tensor.name == "input")
        return Program(
            ops=tuple(_without_dead(self.ops, tensor)),
            input=source.tensor,
            output=tensor,
            input_shape=memory_shape(source.shape),
            output_shape=memory_shape(value.shape) if last else value.shape[1:],
            output_channels_last=last,
        )


def channels_last(shape: tuple[int, ...]) -> np.ndarray:
    """`Value.index` of a [1, channels, ...] tensor that lies channels last; ONNX's own order below rank 3."""
    numbers = np.arange(int(np.prod(shape))).reshape(shape)
    return np.moveaxis(numbers, 1, -1).ravel() if len(shape) > 2 else numbers.ravel()


def inverse(permutation: np.ndarray) -> np.ndarray:
    """Position of each number in `permutation`."""
    found = np.empty_like(permutation)
    found[permutation] = np.arange(permutation.size)
    return found


def memory_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The dims in memory order, batch left out."""
    return (*shape[2:], shape[1]) if len(shape) > 2 else tuple(shape[1:])


def static_shape(value: ir.Value | None, node: ir.Node) -> tuple[int, ...]:
    """A shape of numbers with batch 1. Raises StageFailed."""
    dims = tuple(value.shape or ()) if value is not None else ()
    if not all(isinstance(dim, int) for dim in dims) or (dims and dims[0] != 1):
        raise no_kernel(node, f"its shape {list(dims)} is not one of numbers with batch 1")
    return tuple(int(dim) for dim in dims)  # type: ignore[arg-type]


def clip_bounds(node: ir.Node) -> tuple[float, float]:
    """Bounds of a Relu or Clip. Raises StageFailed for bounds that are computed."""
    if node.op_type == "Relu":
        return 0.0, np.inf
    bounds = [float(attribute(node, "min", -np.inf)), float(attribute(node, "max", np.inf))]  # type: ignore[arg-type]
    for position, value in enumerate(node.inputs[1:3]):
        constant = constant_of(value)
        if value is not None and constant is None:
            raise no_kernel(node, "its bounds are computed")
        if constant is not None:
            bounds[position] = float(constant)
    return bounds[0], bounds[1]


def no_kernel(node: ir.Node, why: str) -> StageFailed:
    """The error for an operator that the C code cannot run."""
    return StageFailed(
        f"node {node.name or node.outputs[0].name!r} ({node.op_type}): {why}",
        where="C code",
        fix="`edgeopt inspect MODEL --tier mcu` lists all of them",
    )


def _scale_and_zero(node: ir.Node) -> tuple[np.float32, int]:
    """Of a QuantizeLinear or DequantizeLinear of one int8 tensor. Raises StageFailed for other kinds."""
    scale = constant_of(node.inputs[1])
    zero = constant_of(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] is not None else None
    if scale is None or scale.size != 1:
        raise no_kernel(node, "its scale is computed, or one for each channel")
    if zero is None or zero.dtype != np.int8:
        raise no_kernel(node, "activations have to be int8")
    return np.float32(scale.reshape(())), int(zero.reshape(()))


def _without_dead(ops: list[Op], output: Tensor) -> list[Op]:
    """Operators that the output depends on."""
    needed = {output}
    kept: list[Op] = []
    for op in reversed(ops):
        if op.output in needed:
            needed.update(op.inputs)
            kept.append(op)
    return kept[::-1]
