"""How each ONNX operator becomes an operator of the program: one function each, and the table of them.

A function takes the reader and the node; it appends to `reader.ops` and names its result with `reader.write`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from edgeopt.mcu.movement import moved
from edgeopt.mcu.program import Add, AveragePool, Concat, Conv, Copy, Image, MaxPool, Mul, Softmax, Table, Window
from edgeopt.mcu.read import Constant, Reader, Result, Value, channels_last, inverse, memory_shape, no_kernel
from edgeopt.mcu.tables import requantize_table, unary_table
from edgeopt.model.passes.edit import attribute

__all__ = ["READERS", "requantize"]


def conv(reader: Reader, node: ir.Node) -> None:
    """Conv in one or two dims with constant weights [out, in / groups, *kernel]."""
    weight, result = reader.constant(node, 1), reader.result(node)
    if weight is None or len(result.shape) not in (3, 4):
        raise no_kernel(node, "its weight is computed, or it is not a convolution in one or two dims")
    source, image = reader.as_image(reader.value(node, 0))
    kernels = weight.integers if weight.integers.ndim == 4 else weight.integers[:, :, None]
    window = _window(node, kernels.shape[2:], image)
    name, output = reader.write(result, "conv", channels_last(result.shape))
    made = _image(result.shape)
    integers = np.ascontiguousarray(kernels.transpose(0, 2, 3, 1))
    bias, scale = _fold(weight, reader.constant(node, 2), integers, source.scale, source.zero, result)
    reader.ops.append(
        Conv(
            layer=reader.layer(node, name),
            inputs=(source,),
            output=output,
            image=image,
            made=made,
            window=window,
            groups=int(attribute(node, "group", 1)),  # type: ignore[call-overload]
            weights=integers,
            bias=bias,
            scale=scale,
        )
    )


def dense(reader: Reader, node: ir.Node) -> None:
    """Gemm and MatMul with a constant matrix: a 1x1 convolution, of one pixel for each row."""
    weight, result, value = reader.constant(node, 1), reader.result(node), reader.value(node, 0)
    if weight is None or weight.integers.ndim != 2 or attribute(node, "transA", 0):
        raise no_kernel(node, "only products with a constant matrix on the right have one")
    transposed = node.op_type == "Gemm" and attribute(node, "transB", 0)
    matrix = weight.integers if transposed else weight.integers.T  # [out, in]
    inside = matrix.shape[1]
    rows = math.prod(value.shape) // inside
    tensor, order = value.tensor, value.index
    if rows > 1:  # the matrix can take up a permutation within a row, not one across rows
        tensor, order = reader.ordered(value, np.arange(tensor.size)), np.arange(inside)
    integers = np.ascontiguousarray(matrix[:, order])[:, None, None, :]
    name, output = reader.write(result, "dense")
    bias, scale = _fold(weight, reader.constant(node, 2), integers, tensor.scale, tensor.zero, result)
    reader.ops.append(
        Conv(
            layer=reader.layer(node, name),
            inputs=(tensor,),
            output=output,
            image=Image(1, rows, inside),
            made=Image(1, rows, matrix.shape[0]),
            window=Window((1, 1)),
            groups=1,
            weights=integers,
            bias=bias,
            scale=scale,
        )
    )


def add(reader: Reader, node: ir.Node) -> None:
    """Add of two tensors, one of them possibly a value for each channel, or constant."""
    if _scalar(reader, node) is not None:
        unary(reader, node)
        return
    result = reader.result(node)
    a, b, broadcast = _operands(reader, node, result)
    f = np.float32
    scale_a, scale_b = f(a.tensor.scale / result.scale), f(b.tensor.scale / result.scale)
    inner = _fma(scale_a, f(a.tensor.zero), f(scale_b * f(b.tensor.zero)))
    name, output = reader.write(result, "add", a.index)
    reader.ops.append(
        Add(
            layer=node.name or name,
            inputs=(a.tensor, b.tensor),
            output=output,
            scale_a=scale_a,
            scale_b=scale_b,
            offset=f(f(result.zero) - inner),
            broadcast=broadcast,
        )
    )


def mul(reader: Reader, node: ir.Node) -> None:
    """Mul of two tensors, one of them possibly a value for each channel, or constant."""
    if _scalar(reader, node) is not None:
        unary(reader, node)
        return
    result = reader.result(node)
    a, b, broadcast = _operands(reader, node, result)
    name, output = reader.write(result, "mul", a.index)
    reader.ops.append(
        Mul(
            layer=node.name or name,
            inputs=(a.tensor, b.tensor),
            output=output,
            scale=np.float32(np.float32(a.tensor.scale * b.tensor.scale) / result.scale),
            broadcast=broadcast,
        )
    )


def unary(reader: Reader, node: ir.Node) -> None:
    """Any function of one variable: a table that onnxruntime fills. Add and Mul with a constant number are some."""
    constant = _scalar(reader, node)
    variable = 1 if constant == 0 else 0
    result, value = reader.result(node), reader.value(node, variable)
    number = None if constant is None else reader.constant(node, constant)
    values = unary_table(node, variable, number, reader.model, value.tensor, result)
    name, output = reader.write(result, "table", value.index)
    reader.ops.append(Table(layer=node.name or name, inputs=(value.tensor,), output=output, values=values))


def max_pool(reader: Reader, node: ir.Node) -> None:
    result = reader.result(node)
    source, image = reader.as_image(reader.value(node, 0))
    if (source.scale, source.zero) != (result.scale, result.zero):
        raise no_kernel(node, "its output has another scale than its input")
    kernel: tuple[int, ...] = tuple(attribute(node, "kernel_shape", ()))  # type: ignore[arg-type]
    window = _window(node, kernel if len(kernel) == 2 else (1, *kernel), image)
    name, output = reader.write(result, "maxpool", channels_last(result.shape))
    made = _image(result.shape)
    reader.ops.append(
        MaxPool(layer=node.name or name, inputs=(source,), output=output, image=image, made=made, window=window)
    )


def average_pool(reader: Reader, node: ir.Node) -> None:
    result = reader.result(node)
    source, image = reader.as_image(reader.value(node, 0))
    everything = node.op_type == "GlobalAveragePool"
    if everything:
        window = Window((image.height, image.width))
    else:
        kernel: tuple[int, ...] = tuple(attribute(node, "kernel_shape", ()))  # type: ignore[arg-type]
        window = _window(node, kernel if len(kernel) == 2 else (1, *kernel), image)
    name, output = reader.write(result, "avgpool", channels_last(result.shape))
    reader.ops.append(
        AveragePool(
            layer=node.name or name,
            inputs=(source,),
            output=output,
            image=image,
            made=_image(result.shape),
            window=window,
            count_padding=bool(attribute(node, "count_include_pad", 0)),
            everything=everything,
        )
    )


def concat(reader: Reader, node: ir.Node) -> None:
    """Along any axis: the pieces are brought into an order in which each is whole rows of the result."""
    result = reader.result(node)
    rank = len(result.shape)
    axis = int(attribute(node, "axis", 1)) % rank  # type: ignore[call-overload]
    if axis == 0:
        raise no_kernel(node, "it joins batches")
    values = [reader.value(node, position) for position in range(len(node.inputs))]
    last = all(np.array_equal(value.index, channels_last(value.shape)) for value in values)
    tensors = tuple(v.tensor if last else reader.ordered(v, np.arange(v.tensor.size)) for v in values)
    dims = memory_shape(result.shape) if last else result.shape[1:]
    place = (axis - 2) % (rank - 1) if last else axis - 1  # of the axis in `dims`
    rows = math.prod(dims[:place])
    tables = tuple(requantize_table(tensor, result) for tensor in tensors)
    name, output = reader.write(result, "concat", channels_last(result.shape) if last else None)
    reader.ops.append(
        Concat(layer=node.name or name, inputs=tensors, output=output, rows=rows, tables=tables),
    )


def softmax(reader: Reader, node: ir.Node) -> None:
    result, value = reader.result(node), reader.value(node, 0)
    rank = len(value.shape)
    axis = int(attribute(node, "axis", -1)) % rank  # type: ignore[call-overload]
    numbers = np.moveaxis(np.arange(value.tensor.size).reshape(value.shape), axis, -1)
    source = reader.ordered(value, numbers.ravel())
    name, output = reader.write(result, "softmax", numbers.ravel())
    rows = value.tensor.size // value.shape[axis]
    reader.ops.append(Softmax(layer=node.name or name, inputs=(source,), output=output, rows=rows))


def move(reader: Reader, node: ir.Node) -> None:
    """What only moves elements: free when all are kept and their order can be relabelled, else a copy."""
    value = reader.value(node, 0)
    for output, numbers in zip(node.outputs, moved(node, value.shape), strict=True):
        if not output.name or not output.uses():
            continue
        flat = numbers.ravel()
        if flat.size == value.tensor.size and np.array_equal(np.sort(flat), np.arange(flat.size)):
            reader.values[output] = Value(value.tensor, numbers.shape, inverse(flat)[value.index])
            continue
        where = inverse(value.index)
        order = channels_last(numbers.shape)
        wanted = flat[order]
        index = np.where(wanted < 0, -1, where[wanted])
        made = Result(output, numbers.shape, value.tensor.scale, value.tensor.zero)
        name, tensor = reader.write(made, "move", order)
        copy = Copy(layer=node.name or name, inputs=(value.tensor,), output=tensor, index=index, fill=value.tensor.zero)
        reader.ops.append(copy)


def requantize(reader: Reader, node: ir.Node, value: Value, scale: np.float32, zero: int) -> Value:
    """`value` on another grid, through a table."""
    result = Result(node.outputs[0], value.shape, scale, zero)
    table = requantize_table(value.tensor, result)
    name, output = reader.write(result, "table", value.index)
    assert table is not None
    reader.ops.append(Table(layer=node.name or name, inputs=(value.tensor,), output=output, values=table))
    return reader.values[node.outputs[0]]


def _scalar(reader: Reader, node: ir.Node) -> int | None:
    """Position of the input that is one constant number; None when neither is."""
    for position in range(min(2, len(node.inputs))):
        constant = reader.constant(node, position)
        if constant is not None and constant.integers.size == 1:
            return position
    return None


def _operands(reader: Reader, node: ir.Node, result: Result) -> tuple[Value, Value, int]:
    """The larger input, the smaller one in the same order, and how often the smaller repeats."""
    first, second = reader.value(node, 0), reader.value(node, 1)
    if first.tensor.data is not None and second.tensor.data is not None:
        raise no_kernel(node, "both inputs are constants: simplify the model")
    a, b = (
        (second, first) if first.tensor.size < second.tensor.size or first.tensor.data is not None else (first, second)
    )
    if a.shape != result.shape:
        raise no_kernel(node, f"broadcasting {list(a.shape)} and {list(b.shape)} against each other")
    if a.tensor.size == b.tensor.size:
        return a, Value(reader.ordered(b, a.index), a.shape, a.index), 1
    last = channels_last(a.shape)
    spread = np.broadcast_to(np.arange(b.tensor.size).reshape(b.shape), a.shape).ravel()
    inner = b.tensor.size
    for order in (last, np.arange(last.size)):
        periods = spread[order].reshape(-1, inner)
        if (periods == periods[0]).all():
            source = Value(reader.ordered(a, order), a.shape, order)
            return source, Value(reader.ordered(b, periods[0]), b.shape, periods[0]), last.size // inner
    raise no_kernel(node, f"broadcasting {list(b.shape)} to {list(a.shape)} is not a value for each channel")


def _fold(
    weight: Constant, bias: Constant | None, integers: np.ndarray, scale: np.float32, zero: int, result: Result
) -> tuple[np.ndarray, np.ndarray]:
    """int32 bias with the input's zero point in it, and float32 input * weight / output scales, for each channel."""
    channels = integers.shape[0]
    sums = integers.reshape(channels, -1).astype(np.int64).sum(1)
    start = np.zeros(channels, np.int64) if bias is None else bias.integers.astype(np.int64).reshape(-1)
    folded = np.broadcast_to(start, [channels]) - zero * sums
    combined = (scale * weight.scale.astype(np.float32).reshape(-1)) / result.scale
    return folded.astype(np.int32), np.ascontiguousarray(np.broadcast_to(combined, [channels]), np.float32)


def _fma(a: np.float32, b: np.float32, c: np.float32) -> np.float32:
    """a * b + c rounded once: exact in float64 for an int8 times a float32 plus a float32 of a similar size."""
    return np.float32(np.float64(a) * np.float64(b) + np.float64(c))


def _image(shape: tuple[int, ...]) -> Image:
    _, channels, *sides = shape
    height, width = sides if len(sides) == 2 else (1, *sides)
    return Image(height, width, channels)


def _window(node: ir.Node, kernel: tuple[int, ...], image: Image) -> Window:
    """The attributes of a Conv or pool; those of one dim apply to the width."""

    def pair(name: str) -> tuple[int, int]:
        given: tuple[int, ...] = tuple(attribute(node, name, ()) or (1, 1))  # type: ignore[arg-type]
        return (given[0], given[1]) if len(given) == 2 else (1, given[0])

    stride, dilation = pair("strides"), pair("dilations")
    given: list[int] = list(attribute(node, "pads", ()) or [0, 0, 0, 0])  # type: ignore[call-overload]
    pads = (given[0], given[1]) if len(given) == 4 else (0, given[0])
    window = Window((kernel[0], kernel[1]), stride, dilation, pads)
    automatic = attribute(node, "auto_pad", "NOTSET")
    if automatic in ("SAME_UPPER", "SAME_LOWER"):
        short = [
            max(0, (math.ceil(size / s) - 1) * s + extent - size)
            for size, s, extent in zip((image.height, image.width), stride, window.extent, strict=True)
        ]
        tops = [size // 2 if automatic == "SAME_UPPER" else size - size // 2 for size in short]
        window = Window(window.kernel, stride, dilation, (tops[0], tops[1]))
    return window


READERS: dict[str, Callable[[Reader, ir.Node], None]] = {
    "Add": add,
    "AveragePool": average_pool,
    "Clip": unary,
    "Concat": concat,
    "Conv": conv,
    "DepthToSpace": move,
    "Expand": move,
    "Flatten": move,
    "Gather": move,
    "Gemm": dense,
    "GlobalAveragePool": average_pool,
    "HardSigmoid": unary,
    "HardSwish": unary,
    "Identity": move,
    "LeakyRelu": unary,
    "MatMul": dense,
    "MaxPool": max_pool,
    "Mul": mul,
    "Pad": move,
    "Relu": unary,
    "Reshape": move,
    "Resize": move,
    "Sigmoid": unary,
    "Slice": move,
    "Softmax": softmax,
    "SpaceToDepth": move,
    "Split": move,
    "Squeeze": move,
    "Swish": unary,
    "Tanh": unary,
    "Tile": move,
    "Transpose": move,
    "Unsqueeze": move,
}
