"""256-entry tables: what a function of one int8 variable gives, found by running onnxruntime on all 256 values.

Exact by construction: the table is made by the very nodes of the graph, quantization included.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnx_ir as ir

from edgeopt.mcu.program import Tensor
from edgeopt.model.model import Model
from edgeopt.model.passes.edit import constant_of

if TYPE_CHECKING:
    from edgeopt.mcu.read import Constant, Result

__all__ = ["requantize_table", "softmax_table", "unary_table"]

LEVELS = np.arange(-128, 128, dtype=np.int8)


def unary_table(
    node: ir.Node, variable: int, constant: Constant | None, model: Model, source: Tensor, result: Result
) -> np.ndarray:
    """int8 [256]: DequantizeLinear, `node`, QuantizeLinear for -128 ... 127 in its input number `variable`.

    `constant` is a quantized constant input of it; others are taken from the graph.
    """
    made, array = onnx.helper.make_node, onnx.numpy_helper.from_array
    nodes, constants, names = [], [], []
    for position, value in enumerate(node.inputs):
        found = constant_of(value)
        if position == variable:
            names.append("x")
        elif found is not None:
            names.append(f"c{position}")
            constants.append(array(np.ascontiguousarray(found), names[-1]))
        elif value is not None and constant is not None:
            names.append("number")
            parts = {
                "qn": constant.integers.reshape(()),
                "sn": constant.scale.reshape(()),
                "zn": constant.zero.reshape(()),
            }
            constants += [array(np.asarray(part), name) for name, part in parts.items()]
            nodes.append(made("DequantizeLinear", ["qn", "sn", "zn"], ["number"]))
        else:
            names.append("")
    proto = made(node.op_type, names, ["y"], name="function")
    proto.attribute.extend(ir.to_proto(found) for found in node.attributes.values())
    return _through([*nodes, proto], constants, source, result, model.graph.opset_imports.get("", 20))


def requantize_table(source: Tensor, result: Result) -> np.ndarray | None:
    """int8 [256] from one grid to another; None when they are the same."""
    if (source.scale, source.zero) == (result.scale, result.zero):
        return None
    scaled = (LEVELS.astype(np.float32) - np.float32(source.zero)) * source.scale
    levels = np.rint(scaled / result.scale) + result.zero
    table: np.ndarray = np.clip(levels, -128, 127).astype(np.int8)
    return table


def softmax_table(scale: np.float32, length: int) -> np.ndarray:
    """float32 [256]: exp of (i - 255) * scale, moved up as far as float32 allows: onnxruntime's QLinearSoftmax.

    Entry 255 + q - max(q) is the numerator of an element.
    """
    limit = np.log(np.float64(np.finfo(np.float32).max / np.float32(length)))
    shift = max(0.0, limit - 5) / np.float64(scale)
    table: np.ndarray = np.exp((np.arange(256) - 255 + shift) * np.float64(scale)).astype(np.float32)
    return table


def _through(
    nodes: list[onnx.NodeProto], constants: list[onnx.TensorProto], source: Tensor, result: Result, version: int
) -> np.ndarray:
    """Every level through DQ (x), the nodes (x to y) and Q."""
    from edgeopt.model.runtime import open_session, run

    made, array = onnx.helper.make_node, onnx.numpy_helper.from_array
    scales = {"sx": source.scale, "zx": np.int8(source.zero), "sy": result.scale, "zy": np.int8(result.zero)}
    graph = onnx.helper.make_graph(
        [
            made("DequantizeLinear", ["qx", "sx", "zx"], ["x"]),
            *nodes,
            made("QuantizeLinear", ["y", "sy", "zy"], ["qy"]),
        ],
        "table",
        [onnx.helper.make_tensor_value_info("qx", onnx.TensorProto.INT8, [1, 256])],
        [onnx.helper.make_tensor_value_info("qy", onnx.TensorProto.INT8, None)],
        [*constants, *(array(np.asarray(value), name) for name, value in scales.items())],
    )
    opsets = [onnx.helper.make_opsetid("", version)]
    content = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString()
    session = open_session(content, threads=1, entries={"session.qdqisint8allowed": "1"})
    table: np.ndarray = run(session, LEVELS[None])[0][0]
    return table
