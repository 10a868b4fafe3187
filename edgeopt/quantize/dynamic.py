"""Dynamic int8: weights as integers, the range of each activation found while the model runs. Needs no data.

Source: onnxruntime's dynamic quantization; ONNX DynamicQuantizeLinear and MatMulInteger. The pattern written is
DynamicQuantizeLinear -> MatMulInteger -> Cast -> Mul (-> Add of the bias), one DynamicQuantizeLinear for all that read
a tensor. onnxruntime fuses it to DynamicQuantizeMatMul, or MatMulIntegerToFloat where several share the quantized
input. One range serves the whole tensor, so what is in one batch together is rounded together. 768x3072 matrices, one
thread, AVX512-VNNI, take .13 of the float time for one row, .12 for 16 and .25 for 128.

Weights are int8 with a scale for each output, activations uint8. On x64 without VNNI instructions onnxruntime's
kernel adds pairs of products in 16 bits and saturates where both are near their largest; only newer processors (and
Arm) give what was measured here.
"""

from __future__ import annotations

from collections.abc import Collection

import onnx_ir as ir

from edgeopt.model.model import Model
from edgeopt.model.passes.edit import replace_node
from edgeopt.quantize.linear import Matrices, refuse_explicit
from edgeopt.quantize.weights import MaxScale, WeightScale
from edgeopt.stage import Context, StageResult
from edgeopt.tiers import Tier

__all__ = ["quantize_dynamic"]

MAX = MaxScale()


def quantize_dynamic(
    model: Model, tier: Tier, context: Context, *, method: WeightScale = MAX, excluded: Collection[str] = ()
) -> StageResult:
    """The prepared float `model` with large MatMul and Gemm nodes in integers, their inputs quantized at run time.

    Tables of embedding Gather nodes become int8 as well. `method` chooses the weights' scales, `excluded` names nodes
    to leave alone. Facts: `quantized_nodes` (operator -> count), `float_nodes` (name -> why), bytes of the weights
    before, after and saved. Raises UsageError for a tier that cannot have it.
    """
    refuse_explicit(tier, "dynamic quantization")
    changed = model.copy()
    matrices = Matrices(changed, method, excluded)
    inputs: dict[ir.Value, ir.Node] = {}
    for node in matrices.wanted("MatMul", "Gemm"):
        _compute_in_integers(node, matrices, inputs)
    for node in matrices.wanted("Gather", tell=False):
        matrices.look_up(node)
    matrices.drop_unused()
    if not matrices.done:
        context.progress.warn(
            "no large MatMul, Gemm or embedding with constant weights was found: nothing is quantized"
        )
    return StageResult(changed, {"activations": "dynamic"} | matrices.facts(model))


def _compute_in_integers(node: ir.Node, matrices: Matrices, inputs: dict[ir.Value, ir.Node]) -> None:
    """Replace a MatMul or Gemm by its integer form; `inputs` holds the tensors that are quantized already."""
    integers, scale = matrices.product(node)
    x = node.inputs[0]
    assert x is not None
    if x not in inputs:
        inputs[x] = _quantize_input(x, node)
    quantized, x_scale, x_zero = inputs[x].outputs
    name = node.outputs[0].name or ""
    product = ir.node("MatMulInteger", [quantized, integers, x_zero], name=f"{node.name}_integer")
    cast = ir.node("Cast", [product.outputs[0]], {"to": ir.DataType.FLOAT.value}, name=f"{node.name}_cast")
    both = ir.node("Mul", [x_scale, scale], name=f"{node.name}_scale")
    result = ir.node("Mul", [cast.outputs[0], both.outputs[0]], name=f"{node.name}_rescale")
    for made, part, kind in (
        (product, "integer", ir.DataType.INT32),
        (cast, "cast", ir.DataType.FLOAT),
        (both, "scale", ir.DataType.FLOAT),
        (result, "product", ir.DataType.FLOAT),
    ):
        made.outputs[0].name, made.outputs[0].type = f"{name}_{part}", ir.TensorType(kind)
    nodes = [product, cast, both, result]
    bias = matrices.bias(node)
    if bias is not None:
        nodes.append(ir.node("Add", [result.outputs[0], bias]))
    nodes[-1].name = None
    replace_node(node, nodes)


def _quantize_input(x: ir.Value, reader: ir.Node) -> ir.Node:
    """DynamicQuantizeLinear of `x`, before its first reader."""
    node = ir.node("DynamicQuantizeLinear", [x], num_outputs=3, name=f"{x.name}_dynamic")
    kinds = (ir.DataType.UINT8, ir.DataType.FLOAT, ir.DataType.UINT8)
    for output, part, kind in zip(node.outputs, ("quantized", "scale", "zero_point"), kinds, strict=True):
        output.name, output.type = f"{x.name}_dynamic_{part}", ir.TensorType(kind)
    assert reader.graph is not None
    reader.graph.insert_before(reader, node)
    return node
