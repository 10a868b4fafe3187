"""What stands behind a layer's matrix and holds its constant: a bias, a BatchNormalization, an Add, or nothing.

With it a layer is `gain * (weight @ x) + constant`, as seen by whatever reads its `output`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import onnx

from edgeopt.model.layerwise.segments import Segments

__all__ = ["Tail", "statistics_kept", "tail_of"]

Constants = Mapping[str, np.ndarray]
SMALLEST_GAIN = 1e-6
"""Of the largest: channels that a BatchNormalization has shut keep their weights."""


class Tail(Protocol):
    """Vectors are float64 [outputs]."""

    @property
    def output(self) -> str:
        """The value that layer and tail make together."""

    @property
    def last(self) -> str:
        """The last node of them."""

    @property
    def fits(self) -> bool:
        """Whether the constant can change."""

    @property
    def normalizes(self) -> bool:
        """Whether a gain other than the present one can be had, so that the weight may have any size."""

    @property
    def gain(self) -> np.ndarray: ...

    @property
    def constant(self) -> np.ndarray: ...

    def changed(
        self, gain: np.ndarray, constant: np.ndarray, mean: np.ndarray, variance: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Initializers that give this gain and constant, for a matrix product of this mean and variance."""
        ...


@dataclass(frozen=True)
class Plain:
    """The layer's own bias, or an Add's; or none, which cannot change."""

    output: str
    last: str
    gain: np.ndarray
    constant: np.ndarray
    bias: str | None
    before: np.ndarray | None = None
    """What of the constant stands elsewhere (the layer's own bias before an Add)."""
    normalizes: bool = False

    @property
    def fits(self) -> bool:
        return self.bias is not None

    def changed(
        self, gain: np.ndarray, constant: np.ndarray, mean: np.ndarray, variance: np.ndarray
    ) -> dict[str, np.ndarray]:
        own = constant if self.before is None else constant - self.before
        return {} if self.bias is None else {self.bias: own}


@dataclass(frozen=True)
class Normalized:
    """A BatchNormalization. Its statistics become those of what now arrives, scale and bias keep what it computes."""

    output: str
    last: str
    gain: np.ndarray
    constant: np.ndarray
    names: tuple[str, str, str, str]
    epsilon: float
    before: np.ndarray
    """The layer's own bias."""
    fits: bool = True
    normalizes: bool = True

    def changed(
        self, gain: np.ndarray, constant: np.ndarray, mean: np.ndarray, variance: np.ndarray
    ) -> dict[str, np.ndarray]:
        scale, bias, running_mean, running_variance = self.names
        arriving = mean + self.before
        return {
            scale: gain * np.sqrt(variance + self.epsilon),
            bias: constant + gain * (arriving - self.before),
            running_mean: arriving,
            running_variance: variance,
        }


def tail_of(node: onnx.NodeProto, outputs: int, graph: Segments, constants: Constants) -> Tail | str:
    """The tail of a layer in the pruned graph, or why the layer is not fitted."""
    own = node.input[2] if node.op_type != "MatMul" and len(node.input) > 2 else ""
    if own and (own not in constants or constants[own].size != outputs or len(graph.readers(own)) > 1):
        return "its bias has another form"
    bias = constants[own].astype(np.float64).ravel() if own else np.zeros(outputs)
    readers = graph.readers(node.output[0])
    reader = readers[0] if len(readers) == 1 else None
    if reader is not None and reader.op_type == "BatchNormalization" and len(reader.output) == 1:
        return _normalized(node, reader, bias, graph, constants) or _plain(node, own, bias)
    if reader is not None and reader.op_type == "Add" and not own and node.op_type == "MatMul":
        return _added(reader, outputs, graph, constants) or _plain(node, own, bias)
    return _plain(node, own, bias)


def statistics_kept(node: onnx.NodeProto, graph: Segments, constants: Constants) -> bool:
    """Whether the BatchNormalization's four constants are its own, and it computes what inference computes."""
    given = all(name in constants for name in node.input[1:5])
    training = any(a.name == "training_mode" and a.i for a in node.attribute)
    return given and not training and graph.owns(node.name, (1, 2, 3, 4))


def _plain(node: onnx.NodeProto, own: str, bias: np.ndarray) -> Plain:
    return Plain(node.output[0], node.name, np.ones_like(bias), bias, own or None)


def _normalized(
    node: onnx.NodeProto, norm: onnx.NodeProto, own: np.ndarray, graph: Segments, constants: Constants
) -> Normalized | None:
    if norm.input[0] != node.output[0] or not statistics_kept(norm, graph, constants):
        return None
    scale, bias, mean, variance = (constants[name].astype(np.float64) for name in norm.input[1:5])
    epsilon = next((a.f for a in norm.attribute if a.name == "epsilon"), 1e-5)
    gain = scale / np.sqrt(variance + epsilon)
    names = (norm.input[1], norm.input[2], norm.input[3], norm.input[4])
    return Normalized(norm.output[0], norm.name, gain, bias + gain * (own - mean), names, epsilon, own)


def _added(add: onnx.NodeProto, outputs: int, graph: Segments, constants: Constants) -> Plain | None:
    name = next((name for name in add.input if name in constants), None)
    if name is None or constants[name].shape != (outputs,) or len(graph.readers(name)) > 1:
        return None
    bias = constants[name].astype(np.float64)
    return Plain(add.output[0], add.name, np.ones_like(bias), bias, name)
