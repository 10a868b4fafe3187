"""Numbers inside nodes that count channels: groups, shapes, lengths of pieces, bounds, amounts of padding."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from edgeopt.prune.surgery import CannotRemove, Cut

__all__ = ["REWRITES"]


def conv(node: ir.Node, cut: Cut) -> None:
    """`group` follows the channels that enter when whole groups leave (kernel[1] of the weight is unchanged)."""
    groups = node.attributes.get_int("group", 1)
    weight, x = node.inputs[1], node.inputs[0]
    if groups == 1 or x is None or weight is None:
        return
    channels, width_axis = (1, 1) if node.op_type == "Conv" else (1, 0)
    entering = cut.masks(x).get(channels)
    if entering is None:
        return
    if node.op_type == "Conv" and width_axis in cut.masks(weight):
        return  # the same positions left every group
    per_group = entering.reshape(groups, -1).sum(axis=1)
    left = per_group[per_group > 0]
    if (left == entering.size // groups).all():
        node.attributes["group"] = ir.AttrInt64("group", len(left))


def group_normalization(node: ir.Node, cut: Cut) -> None:
    """`num_groups` follows when whole groups leave."""
    entering = cut.masks(node.inputs[0]).get(1)
    groups = node.attributes.get_int("num_groups", 1)
    if entering is not None:
        left = int(entering.reshape(groups, -1).any(axis=1).sum())
        node.attributes["num_groups"] = ir.AttrInt64("num_groups", left)


def attention(node: ir.Node, cut: Cut) -> None:
    """The scale of the original is written down, the default follows the width; heads that are attributes follow."""
    q, k = node.inputs[0], node.inputs[1]
    if q is None or k is None:
        return
    if len(cut.length(q)) == 4:
        if "scale" not in node.attributes:
            node.attributes["scale"] = ir.AttrFloat32("scale", 1 / math.sqrt(cut.length(q)[3]))
        return
    for name, value in (("q_num_heads", q), ("kv_num_heads", k)):
        mask = cut.masks(value).get(2)
        if mask is not None:
            heads = int(mask.reshape(node.attributes.get_int(name, 1), -1).any(axis=1).sum())
            node.attributes[name] = ir.AttrInt64(name, heads)


def reshape(node: ir.Node, cut: Cut) -> None:
    """Also Expand and Resize's `sizes`: the shape is an input, constant or computed.

    A shape that is computed may be so from lengths that change, so that all but the batch is written down.
    """
    position = 3 if node.op_type == "Resize" else 1
    masks = cut.masks(node.outputs[0])
    follows = cut.plan.trace.open_dims.get(node.outputs[0].name or "")
    if follows is not None and len(follows) <= 1:
        lengths = [int(masks[d].sum()) if d in masks else n for d, n in enumerate(cut.length(node.outputs[0]))]
        fixed = np.array([-1 if dim in follows else length for dim, length in enumerate(lengths)], np.int64)
        node.replace_input_with(1, cut.add(node, "shape", fixed))
        node.attributes.pop("allowzero", None)
        return
    if not masks or len(node.inputs) <= position or node.inputs[position] is None:
        return
    target = node.inputs[position]
    assert target is not None
    numbers = {dim: int(mask.sum()) for dim, mask in masks.items()}
    if target.const_value is None:
        node.replace_input_with(position, _overwrite(node, target, numbers, cut))
        return
    shape = target.const_value.numpy().copy()
    for dim, number in numbers.items():
        if shape[dim] != -1 and not (node.op_type == "Expand" and shape[dim] == 1):
            shape[dim] = number
    node.replace_input_with(position, cut.add(node, "shape", shape))


def _overwrite(node: ir.Node, target: ir.Value, numbers: dict[int, int], cut: Cut) -> ir.Value:
    """target * keep + numbers: a computed shape with some dims replaced by constants."""
    rank = len(cut.length(node.outputs[0]))
    keep, new = np.ones(rank, np.int64), np.zeros(rank, np.int64)
    for dim, number in numbers.items():
        keep[dim], new[dim] = 0, number
    scaled = ir.node("Mul", [target, cut.add(node, "keep_dims", keep)], name=f"{node.name}.keep")
    added = ir.node("Add", [scaled.outputs[0], cut.add(node, "new_dims", new)], name=f"{node.name}.shape")
    scaled.outputs[0].name, added.outputs[0].name = f"{node.name}.kept_dims", f"{node.name}.computed_shape"
    cut.graph.insert_before(node, [scaled, added])
    return added.outputs[0]


def split(node: ir.Node, cut: Cut) -> None:
    masks = cut.masks(node.inputs[0])
    if not masks:
        return
    axis = node.attributes.get_int("axis", 0) % len(cut.length(node.outputs[0]))
    if axis not in masks:
        return
    lengths = []
    for output in node.outputs:
        mask = cut.masks(output).get(axis)
        lengths.append(cut.length(output)[axis] if mask is None else int(mask.sum()))
    node.attributes.pop("num_outputs", None)
    if "split" in node.attributes or (node.version or 13) < 13:
        node.attributes["split"] = ir.AttrInt64s("split", lengths)
        return
    if len(node.inputs) < 2:
        node.resize_inputs(2)
    node.replace_input_with(1, cut.add(node, "split", np.array(lengths, np.int64)))


def slice_(node: ir.Node, cut: Cut) -> None:
    """Bounds become the number of kept slices before them.

    What takes all goes on taking all: a dim into which the batch is merged is longer than it was traced.
    """
    x, masks = node.inputs[0], cut.masks(node.inputs[0])
    if x is None or not masks:
        return
    shape = cut.length(x)
    starts, ends, axes, steps = (_numbers(node, index, name) for index, name in enumerate(_FIELDS, 1))
    if starts is None or ends is None:
        return
    axes = axes if axes is not None else np.arange(len(starts))
    for index, axis in enumerate(axes % len(shape)):
        if axis in masks and (steps is None or steps[index] == 1):
            before = np.concatenate([[0], np.cumsum(masks[axis])])
            first, last, _ = slice(int(starts[index]), int(ends[index])).indices(shape[axis])
            if (first, last) == (0, shape[axis]):
                continue
            starts[index], ends[index] = before[first], before[max(first, last)]
    _set_numbers(node, 1, "starts", starts, cut)
    _set_numbers(node, 2, "ends", ends, cut)


def pad(node: ir.Node, cut: Cut) -> None:
    """Padding that carried channels shrinks with them."""
    x, masks = node.inputs[0], cut.masks(node.outputs[0])
    if x is None or not masks:
        return
    source = cut.length(x)
    pads = _numbers(node, 1, "pads")
    if pads is None:
        return
    axes = _numbers(node, 3, "axes")
    axes = axes if axes is not None else np.arange(len(source))
    half = len(pads) // 2
    for index, axis in enumerate(axes % len(source)):
        if axis in masks:
            before = int(pads[index])
            pads[index] = masks[axis][:before].sum()
            pads[half + index] = masks[axis][before + source[axis] :].sum()
    _set_numbers(node, 1, "pads", pads, cut)


def gather(node: ir.Node, cut: Cut) -> None:
    """Indices are counted anew; those whose slice has left drop out."""
    x, indices = node.inputs[0], node.inputs[1]
    masks = cut.masks(x)
    if x is None or not masks:
        return
    axis = node.attributes.get_int("axis", 0) % len(cut.length(x))
    mask = masks.get(axis)
    if mask is None or indices is None or indices.const_value is None:
        return
    chosen = indices.const_value.numpy() % len(mask)
    if chosen.ndim != 1:
        raise CannotRemove(_units(x, axis, cut), f"is indexed by number at node {node.name!r}")
    new = (np.cumsum(mask) - 1)[chosen[mask[chosen]]]
    node.replace_input_with(1, cut.add(node, "indices", new.astype(np.int64)))


_FIELDS = ("starts", "ends", "axes", "steps")


def _units(value: ir.Value | None, axis: int, cut: Cut) -> np.ndarray:
    blocks = cut.plan.trace.labels[value.name or ""] if value is not None else ()
    ids = np.concatenate([block.ids.ravel() for block in blocks if axis in block.dims])
    units = np.unique(cut.plan.unit_of[ids])
    return units[units >= 0]


def _numbers(node: ir.Node, index: int, name: str) -> np.ndarray | None:
    if name in node.attributes:
        return np.array(node.attributes.get_ints(name, ()), np.int64)
    value = node.inputs[index] if len(node.inputs) > index else None
    return None if value is None or value.const_value is None else value.const_value.numpy().ravel().astype(np.int64)


def _set_numbers(node: ir.Node, index: int, name: str, numbers: np.ndarray, cut: Cut) -> None:
    if name in node.attributes:
        node.attributes[name] = ir.AttrInt64s(name, numbers.tolist())
    else:
        node.replace_input_with(index, cut.add(node, name, numbers))


REWRITES: dict[str, Callable[[ir.Node, Cut], None]] = {
    "Attention": attention,
    "Conv": conv,
    "ConvTranspose": conv,
    "Expand": reshape,
    "Gather": gather,
    "GroupNormalization": group_normalization,
    "Pad": pad,
    "Reshape": reshape,
    "Resize": reshape,
    "Slice": slice_,
    "Split": split,
}
