"""The one currency: an ONNX graph plus its metadata."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import onnx
import onnx_ir as ir
from pydantic import Field, ValidationError

from edgeopt.model.anchors import Anchors
from edgeopt.spec import Spec

__all__ = ["META_KEY", "Meta", "Model", "Preprocess", "TensorInfo"]

META_KEY = "edgeopt"
"""Key of the ONNX metadata entry that holds `Meta` as JSON."""


class Preprocess(Spec):
    """How a decoded uint8 image becomes the model's float input: resize, crop, (x*scale - mean) / std."""

    size: tuple[int, int] = Field(description="height, width of the model's input, pixels")
    resize: int | None = Field(
        None,
        description="shorter side is scaled to this, then the centre is cropped; none: scaled straight to `size`",
    )
    color: Literal["rgb", "gray"] = "rgb"
    scale: float = Field(1 / 255, description="multiplies the 0..255 pixel first")
    mean: tuple[float, ...] = Field((0.0,), description="per channel, of the scaled pixel")
    std: tuple[float, ...] = Field((1.0,), description="per channel, of the scaled pixel")
    layout: Literal["NCHW", "NHWC"] = "NCHW"

    @property
    def channels(self) -> int:
        return 1 if self.color == "gray" else 3


class Meta(Spec):
    """What a user of the model needs to know and the graph does not say."""

    task: Literal["classification", "detection", "other"] = "classification"
    labels: tuple[str, ...] = ()
    preprocess: Preprocess | None = None
    anchors: Anchors | None = Field(None, description="of a detector: how its output becomes boxes")
    provenance: dict[str, str] = Field({}, description="recipe_hash, data_hash, seed, versions, source ...")


@dataclass(frozen=True)
class TensorInfo:
    """Name, shape (an int, or the name of a dynamic dim) and numpy dtype of a graph input or output."""

    name: str
    shape: tuple[int | str, ...]
    dtype: np.dtype[Any]


@dataclass(frozen=True)
class Model:
    """An ONNX graph and its metadata. Treat as immutable: change a `copy()`.

    `graph` weights are initializers; Constant nodes have been lifted to initializers on loading, opset is the
    file's own, BatchNormalization is kept as nodes, initializers carry their torch parameter names.
    """

    graph: ir.Model
    meta: Meta = field(default_factory=Meta)

    def copy(self) -> Model:
        """A model whose graph may be changed; tensors are shared, not copied."""
        return replace(self, graph=self.graph.clone())

    def with_meta(self, **changes: Any) -> Model:
        """The same graph with some metadata fields replaced."""
        return replace(self, meta=self.meta.model_copy(update=changes))

    @property
    def inputs(self) -> list[TensorInfo]:
        """Graph inputs that are not initializers, in order."""
        return [_info(v) for v in self.graph.graph.inputs if v.name not in self.graph.graph.initializers]

    @property
    def outputs(self) -> list[TensorInfo]:
        return [_info(value) for value in self.graph.graph.outputs]

    @property
    def fixed_batch(self) -> int | None:
        """The batch size that the graph insists on; None where it is open."""
        first = (info.shape[0] for info in self.inputs if info.shape)
        return next((size for size in first if isinstance(size, int)), None)

    def weights(self) -> dict[str, np.ndarray]:
        """Initializer name -> array (views; do not write to them)."""
        return {
            name: value.const_value.numpy()
            for name, value in self.graph.graph.initializers.items()
            if value.const_value is not None
        }

    @property
    def weight_bytes(self) -> int:
        """Bytes of all initializers."""
        values = self.graph.graph.initializers.values()
        return sum(value.const_value.nbytes for value in values if value.const_value is not None)

    @property
    def size_bytes(self) -> int:
        """Bytes of the model's file, and of its data file where it needs one (over 2 GB)."""
        from edgeopt.model.external import detached, fits_inline

        if fits_inline(self):
            return int(self.to_proto().ByteSize())
        proto, weights = detached(self)
        return int(proto.ByteSize()) + sum(tensor.nbytes for tensor in weights.values())

    def to_proto(self) -> onnx.ModelProto:
        """The graph with the metadata inside, as a ModelProto (weights inline)."""
        proto: onnx.ModelProto = ir.to_proto(self.graph)
        del proto.metadata_props[:]
        entry = proto.metadata_props.add()
        entry.key, entry.value = META_KEY, self.meta.model_dump_json(exclude_defaults=True)
        return proto

    def to_bytes(self) -> bytes:
        """Serialized ModelProto; equal models give equal bytes. Raises ValueError over 2 GB."""
        content: bytes = self.to_proto().SerializeToString(deterministic=True)
        return content

    @staticmethod
    def from_proto(proto: onnx.ModelProto) -> Model:
        """Take a checked ModelProto in; metadata that edgeopt wrote is read back."""
        meta = Meta()
        for entry in proto.metadata_props:
            if entry.key == META_KEY:
                try:
                    meta = Meta.model_validate_json(entry.value)
                except ValidationError:
                    meta = Meta()
        return Model(ir.from_proto(proto), meta)

    def fingerprint(self) -> str:
        """SHA-256 of graph, weights, labels and preprocessing; provenance does not count."""
        from edgeopt.model.external import detached, fits_inline

        plain = self.with_meta(provenance={})
        if fits_inline(plain):
            return hashlib.sha256(plain.to_bytes()).hexdigest()
        proto, weights = detached(plain)
        found = hashlib.sha256(proto.SerializeToString(deterministic=True))
        for name in sorted(weights):
            found.update(weights[name].tobytes())
        return found.hexdigest()


def _info(value: ir.Value) -> TensorInfo:
    shape = tuple(dim if isinstance(dim, int) else (dim.value or "?") for dim in (value.shape or ir.Shape([])))
    dtype = value.dtype.numpy() if value.dtype is not None else np.dtype(np.float32)
    return TensorInfo(value.name or "", shape, dtype)
