"""Models over the 2 GB that one protobuf message can hold: their weights lie beside the graph, never in it.

On disk that is ONNX external data (`model.onnx` and `model.onnx.data`). In memory a weight read from there stays a
mapped file, so that a stage which looks at one weight after the other holds one at a time. Native code gets a skeleton
of the graph, with large weights as inputs, and onnxruntime gets the skeleton and the arrays.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import onnx
import onnx_ir as ir

from edgeopt.atomic import fsync_folder, write_atomic, writing_folder
from edgeopt.model.model import META_KEY, Model

__all__ = ["copy_model", "data_file", "detached", "fits_inline", "restore_weights", "save_large", "without_weights"]

INLINE_BYTES = 2**31 - 2**26
"""Weights from which a model is kept in two files; protobuf's own limit is 2^31 bytes with all names and shapes."""
SMALL = 256
"""Constants up to this many elements stay in a skeleton: shapes, axes, scales of one number."""


def fits_inline(model: Model) -> bool:
    """Whether graph and weights fit into one protobuf message."""
    return model.weight_bytes < INLINE_BYTES


def data_file(path: Path) -> Path:
    """Where the weights of `path` lie when they are not in it."""
    return path.with_name(f"{path.name}.data")


def save_large(model: Model, path: Path) -> None:
    """Write `path` and its data file. Each appears by one rename, the data first. Raises StageFailed.

    Nothing of the model may be mapped from the data file that is replaced, except where the system keeps a mapped file
    that has lost its name (not Windows).
    """
    shown = model.copy()
    shown.graph.metadata_props.clear()
    shown.graph.metadata_props[META_KEY] = model.meta.model_dump_json(exclude_defaults=True)
    parts = path.with_name(f".{path.name}.parts")
    with writing_folder(parts) as folder:
        ir.save(shown.graph, folder / path.name, external_data=data_file(path).name, size_threshold_bytes=SMALL)
    os.replace(parts / data_file(path).name, data_file(path))
    os.replace(parts / path.name, path)
    parts.rmdir()
    fsync_folder(path.parent)


def copy_model(source: Path, target: Path) -> None:
    """Copy an .onnx file atomically, and its data file with it (linked where the disk can). The two files are called
    the same in both places. Raises StageFailed."""
    data, new = data_file(source), data_file(target)
    if data.is_file() and source.name == target.name:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = new.with_name(f".{new.name}.tmp")
        temporary.unlink(missing_ok=True)
        try:
            os.link(data, temporary)
        except OSError:
            shutil.copyfile(data, temporary)
        os.replace(temporary, new)
    write_atomic(target, source.read_bytes())


def without_weights(model: Model) -> tuple[Model, dict[str, ir.TensorProtocol]]:
    """A copy in which constants of more than SMALL elements are graph inputs, and what they were."""
    light = model.copy()
    graph = light.graph.graph
    taken: dict[str, ir.TensorProtocol] = {}
    for name, value in list(graph.initializers.items()):
        tensor = value.const_value
        if tensor is None or tensor.size <= SMALL:
            continue
        taken[name] = tensor
        value.shape, value.dtype = ir.Shape(tensor.shape.numpy()), tensor.dtype
        graph.initializers.pop(name)
        value.const_value = None
        if value not in graph.inputs:
            graph.inputs.append(value)
    return light, taken


def restore_weights(skeleton: Model, weights: dict[str, ir.TensorProtocol]) -> Model:
    """The skeleton, or what native code made of it, with the weights in it again; unread ones are gone."""
    whole = skeleton.copy()
    graph = whole.graph.graph
    for value in list(graph.inputs):
        if value.name in weights:
            graph.inputs.remove(value)
            if value.uses() or value.is_graph_output():
                value.const_value = weights[value.name]
                graph.register_initializer(value)
    return whole


def detached(model: Model) -> tuple[onnx.ModelProto, dict[str, ir.TensorProtocol]]:
    """A small proto whose large weights are external data in a file that does not exist, and the weights by name."""
    light = model.copy()
    weights: dict[str, ir.TensorProtocol] = {}
    for name, value in light.graph.graph.initializers.items():
        tensor = value.const_value
        if tensor is not None and tensor.size > SMALL:
            weights[name] = tensor
            value.const_value = ir.ExternalTensor(
                "weights", 0, tensor.nbytes, tensor.dtype, shape=ir.Shape(tensor.shape.numpy()), name=name
            )
    return light.to_proto(), weights
