"""Where elements go, for operators that compute nothing: the operator itself says, run on the elements' numbers."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir

from edgeopt.errors import StageFailed
from edgeopt.model.passes.edit import attribute, constant_of

__all__ = ["moved"]


def moved(node: ir.Node, shape: tuple[int, ...]) -> list[np.ndarray]:
    """For each output of `node` an int64 array of its shape: the number of the input element there, -1 for padding.

    Raises StageFailed for settings that compute something, and for more elements than float32 can number.
    """
    from edgeopt.model.runtime import open_session, run

    if node.op_type == "Resize" and attribute(node, "mode", "nearest") != "nearest":
        raise StageFailed(
            f"Resize {node.name!r} interpolates", where="C code", fix="nearest is the mode that has a kernel"
        )
    size = int(np.prod(shape))
    if size >= 2**24:
        raise StageFailed(f"{node.op_type} {node.name!r} moves {size:,} elements", where="C code")
    numbers = np.arange(1, size + 1, dtype=np.float32).reshape(shape)  # 0 is left for padding
    found = run(open_session(_alone(node, shape), threads=1, optimize=False), numbers)
    return [np.rint(array).astype(np.int64) - 1 for array in found]


def _alone(node: ir.Node, shape: tuple[int, ...]) -> bytes:
    """A model of this one node, with its constant inputs; a Pad's value is zero."""
    constants, names = [], ["x"]
    for position, value in enumerate(node.inputs[1:], 1):
        array = constant_of(value)
        is_fill = node.op_type == "Pad" and position == 2
        if array is None or is_fill:
            names.append("")
            continue
        names.append(f"c{position}")
        constants.append(onnx.numpy_helper.from_array(np.ascontiguousarray(array), names[-1]))
    outputs = [f"y{number}" for number in range(len(node.outputs))]
    proto = onnx.helper.make_node(node.op_type, names, outputs, name=node.name)
    proto.attribute.extend(ir.to_proto(found) for found in node.attributes.values())
    make = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [proto],
        "move",
        [make("x", onnx.TensorProto.FLOAT, shape)],
        [make(name, onnx.TensorProto.FLOAT, None) for name in outputs],
        constants,
    )
    assert node.graph is not None
    version = node.graph.opset_imports.get("", 20)
    opsets = [onnx.helper.make_opsetid("", version)]
    content: bytes = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString()
    return content
