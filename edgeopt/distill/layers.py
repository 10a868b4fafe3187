"""Which inner tensors of two networks belong together, and how to get hold of them.

Both networks shrink the image step by step. At each height and width that both have, the last activation is what
the networks know at that resolution, and they are compared there. A tensor is handed out by making it one more output
of the graph, so that it comes from the same forward pass as the answer.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence

import onnx_ir as ir

from edgeopt.distill.answers import Pair
from edgeopt.errors import UsageError
from edgeopt.model import Model
from edgeopt.model.shapes import infer_shapes, static_shape

__all__ = ["find_pairs", "name_pairs", "show"]

ACTIVATIONS = frozenset(
    [
        *("Celu", "Clip", "Elu", "Gelu", "HardSwish", "LeakyRelu", "Mish", "PRelu", "Relu", "Selu", "Softplus"),
        *("Swish", "ThresholdedRelu"),
    ]
)
LAYERS = frozenset(
    ["Add", "AveragePool", "BatchNormalization", "Concat", "Conv", "ConvTranspose", "MaxPool", "Mul", "Resize"]
)
"""What may stand for an activation at a resolution that has none (SiLU is a Mul)."""

Shapes = dict[str, tuple[int, ...]]


def find_pairs(student: Model, teacher: Model) -> tuple[Pair, ...]:
    """The last activation of each at every resolution that both have, from high to low resolution.

    Raises UsageError where they have none in common.
    """
    ours, theirs = _last_activations(student), _last_activations(teacher)
    common = sorted((size for size in ours if size in theirs), reverse=True)
    if not common:
        found = [", ".join(f"{h} x {w}" for h, w in sizes) or "none" for sizes in (ours, theirs)]
        raise UsageError(
            f"the networks have no resolution in common (the student: {found[0]}; the teacher: {found[1]})",
            where="distill",
            fix="name the tensors in the loss's `layers`, or take a loss that compares outputs",
        )
    return tuple(Pair(ours[size][0], theirs[size][0], ours[size][1], theirs[size][1]) for size in common)


def name_pairs(student: Model, teacher: Model, named: Mapping[str, str]) -> tuple[Pair, ...]:
    """The pairs that the user named. Raises UsageError for a tensor that is not there or has no known shape."""
    ours, theirs = dict(_shapes(student)), dict(_shapes(teacher))
    return tuple(
        Pair(one, other, _shape_of(one, ours, "student"), _shape_of(other, theirs, "teacher"))
        for one, other in named.items()
    )


def show(model: Model, names: Sequence[str]) -> tuple[Model, dict[str, int]]:
    """A copy of `model` that has these tensors among its outputs, and where each stands; its own come first."""
    shown = model.copy()
    graph = shown.graph.graph
    made = {value.name: value for node in graph for value in node.outputs}
    for name in names:
        if made[name] not in graph.outputs:
            graph.outputs.append(made[name])
    places = {value.name: place for place, value in enumerate(graph.outputs)}
    return shown, {name: places[name] for name in names}


def _last_activations(model: Model) -> dict[tuple[int, int], tuple[str, tuple[int, ...]]]:
    """(height, width) -> name and shape; an activation function's output where the resolution has one."""
    found: dict[bool, dict[tuple[int, int], tuple[str, tuple[int, ...]]]] = {True: {}, False: {}}
    makers = {value.name: node.op_type for node in model.graph.graph for value in node.outputs}
    for name, shape in _shapes(model):
        if len(shape) == 4 and shape[2] * shape[3] > 1 and makers[name] in ACTIVATIONS | LAYERS:
            found[makers[name] in ACTIVATIONS][shape[2], shape[3]] = name, shape
    return found[False] | found[True]


def _shapes(model: Model) -> list[tuple[str, tuple[int, ...]]]:
    """Float tensors that nodes compute, in the order of the graph, with their shapes for a batch of one."""
    shaped = infer_shapes(model, batch=1)
    values = [value for node in shaped.graph.graph for value in node.outputs]
    return [
        (value.name or "", shape)
        for value in values
        if (shape := static_shape(value)) is not None and _is_float(value) and shape and shape[0] == 1
    ]


def _is_float(value: ir.Value) -> bool:
    return value.dtype is not None and value.dtype.is_floating_point()


def _shape_of(name: str, shapes: Shapes, whose: str) -> tuple[int, ...]:
    if name in shapes:
        return shapes[name]
    close = difflib.get_close_matches(name, shapes, 3, 0.4) or list(shapes)[-3:]
    raise UsageError(
        f"the {whose} has no tensor {name!r} of known shape", where="distill: layers", fix=f"it has {', '.join(close)}"
    )
