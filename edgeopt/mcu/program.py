"""The typed program between the ONNX graph and the C text: a list of operators on int8 tensors.

Tensors are buffers: a name, a size and how their integers are scaled. What an operator reads into them (height, width,
channels) is the operator's own, so a reshape costs nothing. Images lie in memory as [height, width, channels].

Every number that the C code needs is here already as it will be used: zero points are folded into biases, scales are
combined, ranges of folded activations are integers. The arithmetic of each operator is stated where it is defined; it
is that of onnxruntime 1.23 to 1.32 with `session.qdqisint8allowed=1`. rne(x) is x rounded to the nearest integer,
ties to even; f32 marks where onnxruntime rounds to float; every result saturates at -128 and 127.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = [
    "Add",
    "AveragePool",
    "Concat",
    "Conv",
    "Copy",
    "Image",
    "MaxPool",
    "Mul",
    "Op",
    "Program",
    "Softmax",
    "Table",
    "Tensor",
    "Window",
]


@dataclass(frozen=True, eq=False)
class Tensor:
    """`size` int8 elements that stand for scale * (q - zero). `data` is what a constant one holds."""

    name: str
    size: int
    scale: np.float32
    zero: int
    data: np.ndarray | None = None


@dataclass(frozen=True)
class Image:
    """How an operator sees a tensor: [height, width, channels], channels last."""

    height: int
    width: int
    channels: int

    @property
    def size(self) -> int:
        return self.height * self.width * self.channels


@dataclass(frozen=True)
class Window:
    """A sliding window; sizes along (height, width). Padding on the far sides follows from the output's size."""

    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    pads: tuple[int, int] = (0, 0)
    """Rows above and columns left of the image."""

    @property
    def extent(self) -> tuple[int, int]:
        """Rows and columns from the first to the last tap."""
        return (
            (self.kernel[0] - 1) * self.dilation[0] + 1,
            (self.kernel[1] - 1) * self.dilation[1] + 1,
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class Op:
    """One call in the C program. `layer` is what the user knows it by."""

    layer: str
    inputs: tuple[Tensor, ...]
    output: Tensor

    @property
    def macs(self) -> int:
        """Multiply-adds of one inference."""
        return 0


@dataclass(frozen=True, eq=False, kw_only=True)
class Conv(Op):
    """rne(f32(f32(acc) * scale[channel])) + output.zero, acc = bias + sum(weights * input) in int32.

    A dense layer is a convolution of a 1x1 image. `weights` are [out, kernel height, kernel width, in / groups];
    `bias` is int32 with the input's zero point folded in, `scale` float32 [out].
    """

    image: Image
    made: Image
    window: Window
    groups: int
    weights: np.ndarray
    bias: np.ndarray
    scale: np.ndarray
    alternate: bool = False
    """A 1x1 convolution in blocks of three pixels whose elements lie alternately (see `lower_conv`)."""

    @property
    def macs(self) -> int:
        return self.made.height * self.made.width * int(self.weights.size)

    @property
    def depthwise(self) -> bool:
        """Whether every output channel reads one input channel."""
        return self.groups == self.image.channels and self.groups > 1


@dataclass(frozen=True, eq=False, kw_only=True)
class Add(Op):
    """rne(fma(a, scale_a, fma(b, scale_b, offset))): the zero points are in the offset."""

    scale_a: np.float32
    scale_b: np.float32
    offset: np.float32
    broadcast: int = 1
    """The second input is shorter by this factor: it repeats for every position (a value for each channel)."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Mul(Op):
    """rne(f32(f32(f32((a - a.zero) * (b - b.zero)) * scale) + output.zero))."""

    scale: np.float32
    broadcast: int = 1
    """As in Add."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Table(Op):
    """output = values[input + 128]: any function of one variable. `values` int8 [256], made by onnxruntime."""

    values: np.ndarray


@dataclass(frozen=True, eq=False, kw_only=True)
class MaxPool(Op):
    """The largest of a window, for each channel."""

    image: Image
    made: Image
    window: Window


@dataclass(frozen=True, eq=False, kw_only=True)
class AveragePool(Op):
    """The mean of a window for each channel.

    Of the whole image: rne(f32(f32(sum(q - zero)) * f32(scale / f32(pixels * output.scale)))) + output.zero. Of a
    smaller window, in float from the start: rne(f32(f32(f32(sum / count) / output.scale) + output.zero)), where the
    sum of f32(scale * (q - zero)) is rounded at each term.

    `count_padding`: whether the padding counts as elements of the window.
    """

    image: Image
    made: Image
    window: Window
    count_padding: bool
    everything: bool
    """The window is the whole image."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Concat(Op):
    """Pieces one after the other in each of `rows` rows; each piece through its table where the scales differ."""

    rows: int
    tables: tuple[np.ndarray | None, ...]


@dataclass(frozen=True, eq=False, kw_only=True)
class Copy(Op):
    """output[i] = input[index[i]], or `fill` where index[i] is -1: transposition, padding, nearest resize, slices."""

    index: np.ndarray
    fill: int = 0


@dataclass(frozen=True, eq=False, kw_only=True)
class Softmax(Op):
    """Over each of `rows` rows."""

    rows: int


@dataclass(frozen=True)
class Program:
    """Operators in the order they run; one input and one output."""

    ops: tuple[Op, ...]
    input: Tensor
    output: Tensor
    input_shape: tuple[int, ...]
    """As it lies in memory, batch left out: (height, width, channels) of an image."""
    output_shape: tuple[int, ...]
    output_channels_last: bool
    """Whether that is another order than ONNX's."""

    @property
    def macs(self) -> int:
        return sum(op.macs for op in self.ops)

    @property
    def tensors(self) -> Sequence[Tensor]:
        """The input and every operator's output, in the order they are made."""
        return (self.input, *(op.output for op in self.ops))
