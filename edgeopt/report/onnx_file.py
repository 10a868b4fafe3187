"""What an .onnx file tells without onnx: a protobuf wire reader that skips what it does not need.

The fields are those of onnx.proto3 (ModelProto, GraphProto, NodeProto, TensorProto); the encoding is
https://protobuf.dev/programming-guides/encoding. The file is mapped, not read: weights are stepped over.
"""

from __future__ import annotations

import hashlib
import math
import mmap
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from edgeopt.errors import UsageError

__all__ = ["OnnxFile", "identify", "read_onnx_file"]

MODEL_IR_VERSION, MODEL_GRAPH, MODEL_METADATA = 1, 7, 14
GRAPH_NODE, GRAPH_INITIALIZER = 1, 5
NODE_INPUT, NODE_OUTPUT, NODE_OP_TYPE, NODE_ATTRIBUTE, ATTRIBUTE_TENSOR = 1, 2, 4, 5, 5
ATTRIBUTE_GRAPHS = (6, 11)
TENSOR_DIMS, TENSOR_TYPE, TENSOR_NAME, TENSOR_EXTERNAL_DATA = 1, 2, 8, 13
ENTRY_KEY, ENTRY_VALUE = 1, 2
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
INT64, STRING, BOOL = 7, 8, 9
BLOCK = 1 << 20
LARGEST = 1 << 48
"""Elements; a tensor that claims more is not one."""
NO_PARAMETERS = {
    "BatchNormalization": (3, 4),
    "Clip": (1, 2),
    "DequantizeLinear": (1, 2),
    "HardSigmoid": (1, 2),
    "QLinearConv": (1, 2, 4, 5, 6, 7),
    "QLinearMatMul": (1, 2, 4, 5, 6, 7),
    "QuantizeLinear": (1, 2),
    "Resize": (1, 2, 3),
}
"""Inputs that hold statistics, scales, zero points or bounds."""


@dataclass(frozen=True)
class OnnxFile:
    """Figures of one .onnx file."""

    size_bytes: int
    """Of the file and of the external data it names."""
    params: int
    """Elements of initializers and constants, counted as the profile of a model counts them: no single numbers,
    no scales and zero points, no BatchNormalization statistics, no int64 shapes and axes."""
    operators: dict[str, int]
    """Operator name to its number of nodes, those in bodies of control flow included."""
    metadata: dict[str, str]
    external: tuple[Path, ...] = ()
    """The files that hold its external data."""


def identify(path: Path) -> tuple[str, int]:
    """SHA-256 and bytes of an artifact; with those of its data file, where it is too large to be one file.

    Raises OSError.
    """
    found, size = hashlib.sha256(), 0
    for part in (path, path.with_name(f"{path.name}.data")):
        if part == path or part.is_file():
            with part.open("rb") as file:
                while block := file.read(BLOCK):
                    found.update(block)
                    size += len(block)
    return found.hexdigest(), size


def read_onnx_file(path: Path) -> OnnxFile:
    """Read the figures of `path`. Raises UsageError when it is missing, cut short or not ONNX."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            found = _read_model(_Message(content, 0, len(content)))
    except FileNotFoundError as error:
        raise UsageError("there is no such file", where=str(path)) from error
    except OSError as error:
        raise UsageError(f"cannot be read ({error.strerror})", where=str(path)) from error
    except (ValueError, RecursionError) as error:  # an empty file, which cannot be mapped, or what `_Message` found
        raise UsageError(
            f"is not an ONNX model, or was cut short ({error})",
            where=str(path),
            fix="give an .onnx file or a report.json",
        ) from error
    external = tuple(_external_file(path, name) for name in sorted(found.external))
    return OnnxFile(
        size_bytes=sum(file.stat().st_size for file in (path, *external)),
        params=sum(count for name, count in found.tensors.items() if name not in found.others and count > 1),
        operators=dict(found.operators),
        metadata=found.metadata,
        external=external,
    )


@dataclass
class _Found:
    operators: Counter[str] = field(default_factory=Counter)
    tensors: dict[str, int] = field(default_factory=dict)
    others: set[str] = field(default_factory=set)
    external: set[str] = field(default_factory=set)
    metadata: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Message:
    """Bytes `start` to `end` of the file. Every method raises ValueError on what is not protobuf."""

    data: mmap.mmap
    start: int
    end: int

    def fields(self) -> Iterator[tuple[int, int | _Message]]:
        """Field number and value: a number, or the bytes of a string, message or packed list."""
        at = self.start
        while at < self.end:
            tag, at = self._varint(at)
            number, wire = tag >> 3, tag & 7
            value: int | _Message
            if wire == VARINT:
                value, at = self._varint(at)
            elif wire == BYTES:
                length, at = self._varint(at)
                value, at = _Message(self.data, at, at + length), at + length
            elif wire in (FIXED64, FIXED32):
                value, at = 0, at + (8 if wire == FIXED64 else 4)
            else:
                raise ValueError(f"byte {at} is not protobuf")
            if at > self.end or number == 0:
                raise ValueError(f"byte {at} is past the end of its field")
            yield number, value

    def messages(self, *numbers: int) -> Iterator[tuple[int, _Message]]:
        """The length-delimited fields with these numbers."""
        for number, value in self.fields():
            if number in numbers and isinstance(value, _Message):
                yield number, value

    def text(self) -> str:
        return self.data[self.start : self.end].decode()

    def varints(self) -> Iterator[int]:
        """The numbers of a packed list."""
        at = self.start
        while at < self.end:
            value, at = self._varint(at)
            yield value

    def _varint(self, at: int) -> tuple[int, int]:
        value = 0
        for shift in range(0, 70, 7):
            if at >= self.end:
                raise ValueError(f"it ends inside a number at byte {at}")
            byte = self.data[at]
            value, at = value | (byte & 0x7F) << shift, at + 1
            if byte < 0x80:
                return value, at
        raise ValueError(f"byte {at} is not protobuf")


def _read_model(model: _Message) -> _Found:
    found, seen = _Found(), set()
    for number, value in model.fields():
        seen.add(number)
        if not isinstance(value, _Message):
            continue
        if number == MODEL_GRAPH:
            _read_graph(value, found)
        elif number == MODEL_METADATA:
            key, text = _read_entry(value)
            found.metadata[key] = text
    if not {MODEL_IR_VERSION, MODEL_GRAPH} <= seen:
        raise ValueError("it holds no graph")
    return found


def _read_graph(graph: _Message, found: _Found) -> None:
    for number, value in graph.messages(GRAPH_NODE, GRAPH_INITIALIZER):
        if number == GRAPH_NODE:
            _read_node(value, found)
        else:
            _read_tensor(value, found)


def _read_node(node: _Message, found: _Found) -> None:
    inputs, outputs, attributes, operator = [], [], [], ""
    for number, value in node.messages(NODE_INPUT, NODE_OUTPUT, NODE_OP_TYPE, NODE_ATTRIBUTE):
        if number == NODE_INPUT:
            inputs.append(value.text())
        elif number == NODE_OUTPUT:
            outputs.append(value.text())
        elif number == NODE_OP_TYPE:
            operator = value.text()
        else:
            attributes.append(value)
    found.operators[operator] += 1
    for attribute in attributes:
        for _, body in attribute.messages(*ATTRIBUTE_GRAPHS):
            _count_nodes(body, found)
    found.others.update(inputs[at] for at in NO_PARAMETERS.get(operator, ()) if at < len(inputs))
    if operator == "Constant":
        for attribute in attributes:
            for _, tensor in attribute.messages(ATTRIBUTE_TENSOR):
                _read_tensor(tensor, found, outputs[0] if outputs else "")


def _count_nodes(body: _Message, found: _Found) -> None:
    """The operators of a branch or a loop; its tensors are not counted as the model's parameters."""
    inside = _Found()
    for _, node in body.messages(GRAPH_NODE):
        _read_node(node, inside)
    found.operators += inside.operators


def _read_tensor(tensor: _Message, found: _Found, name: str = "") -> None:
    dims: list[int] = []
    data_type = 0
    for number, value in tensor.fields():
        if number == TENSOR_DIMS:
            dims += [value] if isinstance(value, int) else value.varints()
        elif number == TENSOR_TYPE and isinstance(value, int):
            data_type = value
        elif number == TENSOR_NAME and isinstance(value, _Message):
            name = name or value.text()
        elif number == TENSOR_EXTERNAL_DATA and isinstance(value, _Message):
            key, text = _read_entry(value)
            if key == "location":
                found.external.add(text)
    elements = math.prod(dims) if len(dims) <= 32 else LARGEST + 1
    if elements > LARGEST:
        raise ValueError(f"tensor {name!r} claims an impossible size")
    if data_type not in (INT64, STRING, BOOL):
        found.tensors[name] = elements


def _read_entry(entry: _Message) -> tuple[str, str]:
    parts = {number: value.text() for number, value in entry.messages(ENTRY_KEY, ENTRY_VALUE)}
    return parts.get(ENTRY_KEY, ""), parts.get(ENTRY_VALUE, "")


def _external_file(model: Path, location: str) -> Path:
    folder = model.parent.resolve()
    try:
        data = (folder / location).resolve()
        if not data.is_relative_to(folder):
            raise UsageError(f"names external data outside its own folder ({location!r})", where=str(model))
        data.stat()
        return data
    except (OSError, ValueError) as error:
        raise UsageError(
            f"names external data that is not beside it ({location!r})",
            where=str(model),
            fix=f"put it into {model.parent}",
        ) from error
