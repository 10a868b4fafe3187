"""Shapes of every value of a graph, for one batch size or for any."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx
import onnx_ir as ir

from edgeopt.errors import StageFailed
from edgeopt.model.child import SECONDS, model_name, run_native
from edgeopt.model.external import without_weights
from edgeopt.model.model import Model
from edgeopt.model.passes.edit import add_constant, constant_of, replace_node

__all__ = ["infer_shapes", "measure_shapes", "set_batch", "set_sizes", "static_shape"]


def infer_shapes(model: Model, batch: int | None = 1, *, seconds: float = SECONDS) -> Model:
    """A new model in which every value has the shape and dtype that can be inferred.

    `batch` replaces the dynamic first dim of every input, and the same symbol elsewhere; None keeps it
    dynamic. Other dynamic dims stay. Shapes that the file claimed for inner values are inferred anew.
    Raises NativeFailed when onnx.shape_inference refuses the graph, crashes on it or takes over `seconds`.
    """
    shaped = model.copy()
    if batch is not None:
        set_batch(shaped, batch)
    claimed = {value.name: (value.shape, value.type) for value in shaped.graph.graph.outputs}
    for value in _inner_values(shaped.graph):
        value.shape = None
    skeleton, _ = without_weights(shaped)
    _spell_out_flattening(skeleton.graph)
    content = run_native("infer_shapes", skeleton, name=model_name(model), seconds=seconds)
    answer = ir.from_proto(onnx.load_from_string(content))
    inferred = {value.name: value for value in _inner_values(answer)}
    for value in _inner_values(shaped.graph):
        found = inferred.get(value.name)
        if found is not None:
            value.shape = found.shape
            value.type = found.type or value.type
    for value in shaped.graph.graph.outputs:
        shape, value_type = claimed[value.name]
        value.shape, value.type = _merge(value.shape, shape), value.type or value_type
    return shaped


def measure_shapes(model: Model) -> Model:
    """A new model with the shapes that inference left open taken from one run on zeros.

    For operators that onnx.shape_inference does not know and onnxruntime does. Values that onnxruntime cannot
    hand out stay as they are; when it cannot run the model at all, the model comes back as it was.
    """
    from edgeopt.model.runtime import open_session, run

    open_values = [value for value in _inner_values(model.graph) if static_shape(value) is None and value.name]
    if not all(isinstance(dim, int) for info in model.inputs for dim in info.shape):
        return model
    feeds = {info.name: np.zeros([int(dim) for dim in info.shape], info.dtype) for info in model.inputs}
    try:
        session = open_session(_showing(model, open_values), threads=1, optimize=False)
        names = [output.name for output in session.get_outputs()]
        found = dict(zip(names, run(session, feeds), strict=True))
    except StageFailed:
        return model
    measured = model.copy()
    for value in _inner_values(measured.graph):
        if value.name in found:
            array = found[value.name]
            value.shape, value.dtype = ir.Shape(array.shape), ir.DataType.from_numpy(array.dtype)
    return measured


def _showing(model: Model, values: list[ir.Value]) -> Model:
    """A copy whose outputs are these values too."""
    shown = model.copy()
    graph = shown.graph.graph
    made = {value.name: value for node in graph for value in node.outputs}
    known = {value.name for value in graph.outputs}
    graph.outputs.extend(made[value.name] for value in values if value.name in made and value.name not in known)
    return shown


def set_batch(model: Model, batch: int) -> None:
    """Replace the dynamic first dim of each input, and the same symbols elsewhere, in place."""
    graph = model.graph.graph
    values = [value for value in graph.inputs if value.name not in graph.initializers]
    symbols = {_first_symbol(value) for value in values} - {None}
    for value in [*values, *_inner_values(model.graph)]:
        if value.shape is None:
            continue
        first = value in values and _first_symbol(value) is not None
        value.shape = ir.Shape(
            [
                batch if not isinstance(dim, int) and (dim.value in symbols or (first and axis == 0)) else dim
                for axis, dim in enumerate(value.shape)
            ]
        )


def set_sizes(model: Model, shapes: Mapping[str, Sequence[int]]) -> None:
    """Give each input the shape named here, and each value the sizes that its symbols then have, in place."""
    symbols: dict[str | None, int] = {}
    for value in model.graph.graph.inputs:
        sizes = shapes.get(value.name or "")
        if sizes is not None and value.shape is not None:
            pairs = zip(value.shape, sizes, strict=True)
            symbols |= {dim.value: size for dim, size in pairs if not isinstance(dim, int) and dim.value}
            value.shape = ir.Shape(sizes)
    for value in _inner_values(model.graph):
        if value.shape is not None:
            value.shape = ir.Shape(
                [dim if isinstance(dim, int) else symbols.get(dim.value, dim) for dim in value.shape]
            )


def static_shape(value: ir.Value | None) -> tuple[int, ...] | None:
    """The shape as numbers, or None when it is unknown or has a dynamic dim."""
    if value is None:
        return None
    shape = value.shape
    if shape is None and value.const_value is not None:
        shape = ir.Shape(value.const_value.shape.numpy())
    if shape is None or not all(isinstance(dim, int) for dim in shape):
        return None
    return tuple(int(dim) for dim in shape)  # type: ignore[arg-type]


def _merge(inferred: ir.Shape | None, claimed: ir.Shape | None) -> ir.Shape | None:
    """What was inferred, with the claimed dims (a number, or a name people gave) where inference has none."""
    if inferred is None or claimed is None or inferred.rank() != claimed.rank():
        return inferred if inferred is not None else claimed
    return ir.Shape([new if isinstance(new, int) else old for new, old in zip(inferred, claimed, strict=True)])


def _first_symbol(value: ir.Value) -> str | None:
    """Name of a dynamic first dim ("" when it has none); None when the first dim is a number."""
    if value.shape is None or len(value.shape) == 0 or isinstance(value.shape[0], int):
        return None
    return value.shape[0].value or ""


def _inner_values(model: ir.Model) -> Iterator[ir.Value]:
    """What the nodes compute, subgraphs included."""
    for node in model.graph.all_nodes():
        yield from node.outputs


def _spell_out_flattening(model: ir.Model) -> None:
    """Reshape(n, [-1]) of integers becomes Unsqueeze(Squeeze(n)), in place.

    torch's exporter writes every dynamic dim of a Reshape that way, and onnx.shape_inference propagates the
    values of shape computations through Squeeze and Unsqueeze but not through Reshape.
    """
    if (model.opset_imports.get("") or 0) < 13:  # Unsqueeze took its axes as an attribute
        return
    for node in list(model.graph):
        source, target = (*node.inputs, None, None)[:2]
        shape = constant_of(target) if node.op_type == "Reshape" else None
        if source is None or shape is None or shape.tolist() != [-1] or not _is_one_integer(source):
            continue
        squeezed = ir.node("Squeeze", [source])
        zero = add_constant(model.graph, "axis_zero", np.array([0], np.int64))
        replace_node(node, [squeezed, ir.node("Unsqueeze", [squeezed.outputs[0], zero])])


def _is_one_integer(value: ir.Value) -> bool:
    """Whether it is one entry of a shape: by its own shape, or because a scalar was taken out of Shape's
    result.
    """
    if value.dtype not in (None, ir.DataType.INT64):
        return False
    if value.shape is not None:
        return value.shape.rank() == 0 or list(value.shape) == [1]
    node = value.producer()
    if node is not None and node.op_type == "Gather":
        index = constant_of(node.inputs[1])
        return index is not None and index.ndim == 0
    return node is not None and node.op_type in ("Squeeze", "Size")
