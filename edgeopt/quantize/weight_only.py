"""Weight-only int8: large matrices stored as integers, activations and arithmetic as they were.

The form is DequantizeLinear with a scale for each output before MatMul or Gemm: standard ONNX, which every runtime
reads. onnxruntime (1.32 measured) fuses the pair to its MatMulNBits kernel, which reads a quarter of the
bytes: 768x3072 matrices, one thread, AVX512-VNNI, take .13 of the float time for one row, .34 for 16 and .6 for 128.
The same in MatMulNBits nodes of its own (8 bits, blocks of 128) takes the same time and only onnxruntime reads it, so
it is not written. The kernel rounds the activations to 8 bits for each block of 32 inputs, which costs about 1 dB of
35; the session option `session.qdq_matmulnbits_accuracy_level` is there to choose otherwise.

A Gemm becomes MatMul and Add for it (a Gemm may transpose its weight; the integers are stored transposed). Where a
function such as Relu follows, onnxruntime would make the three one float Gemm first: the bias is subtracted, negated,
instead of added.

The kernel takes no weight that several nodes read, and DequantizeLinear before a Conv would run at every inference.
Such weights are stored as integers with Cast and Mul behind them, which onnxruntime computes once, when it loads the
file: small on disk, as fast as float, and as large in memory.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

import onnx_ir as ir

from edgeopt.model.model import Model
from edgeopt.model.passes.edit import add_constant, constant_of, replace_node
from edgeopt.quantize.linear import Matrices, refuse_explicit
from edgeopt.quantize.pack import store_as_integers
from edgeopt.quantize.weights import MaxScale, WeightScale, weight_axis
from edgeopt.stage import Context, StageResult
from edgeopt.tiers import Tier

__all__ = ["quantize_weights_only"]

MAX = MaxScale()
FUSED_WITH_GEMM = frozenset({
    "Elu", "HardSigmoid", "LeakyRelu", "Relu", "Selu", "Sigmoid", "Softplus", "Softsign", "Tanh", "ThresholdedRelu",
})  # fmt: skip
_Stored = dict[tuple[ir.Value, int | None], ir.Value]
"""Weight and axis of its output channels -> the float value that is computed from its integers."""


def quantize_weights_only(
    model: Model,
    tier: Tier,
    context: Context,
    *,
    method: WeightScale = MAX,
    excluded: Collection[str] = (),
    convolutions: bool = False,
) -> StageResult:
    """The prepared float `model` with the weights of large MatMul, Gemm and embedding Gather nodes as int8.

    No data is needed. `method` chooses the scales, `excluded` names nodes to leave alone, `convolutions` takes Conv
    along. Nodes in bodies of control flow and of other domains stay as they are. Facts: `quantized_nodes` (operator ->
    count), `float_nodes` (name -> why), bytes of the weights before, after and saved. Raises UsageError for a tier that
    cannot have it.
    """
    refuse_explicit(tier, "weight-only quantization")
    changed = model.copy()
    matrices = Matrices(changed, method, excluded)
    products = matrices.wanted("MatMul", "Gemm")
    readers = Counter(node.inputs[1] for node in products)
    stored: _Stored = {}
    for node in products:
        if readers[node.inputs[1]] > 1:
            _cast_weight(node, matrices, stored)
        else:
            _dequantize(node, matrices)
    for node in matrices.wanted("Gather", tell=False):
        matrices.look_up(node)
    for node in matrices.wanted("Conv") if convolutions else ():
        _cast_weight(node, matrices, stored)
    matrices.drop_unused()
    facts = matrices.facts(model)
    if facts["bytes_saved"] < 0.1 * facts["weight_bytes_before"]:
        context.progress.warn(
            f"weight-only quantization saves {facts['bytes_saved']:,} of {facts['weight_bytes_before']:,} B: "
            "few weights are in large MatMul, Gemm and Gather nodes"
        )
    return StageResult(changed, {"activations": "float"} | facts)


def _dequantize(node: ir.Node, matrices: Matrices) -> None:
    """The node as MatMul with a DequantizeLinear of its own as its weight, and Add (or Sub) of what a Gemm adds."""
    integers, scale = matrices.product(node)
    dequantize = ir.node("DequantizeLinear", [integers, scale], {"axis": 1}, name=f"{node.name}_dq")
    product = ir.node("MatMul", [node.inputs[0], dequantize.outputs[0]], name=node.name)
    name = node.outputs[0].name
    for made, part, shape in ((dequantize, "weight", integers.shape), (product, "product", node.outputs[0].shape)):
        output = made.outputs[0]
        output.name, output.shape, output.type = f"{name}_{part}", shape, ir.TensorType(ir.DataType.FLOAT)
    added = matrices.bias(node)
    replace_node(node, [dequantize, product, *_bias_nodes(node, product.outputs[0], added)])


def _bias_nodes(node: ir.Node, product: ir.Value, added: ir.Value | None) -> list[ir.Node]:
    if added is None:
        return []
    negated, bias = _fuses_with_reader(node), constant_of(added)
    if not negated or bias is None or node.graph is None:
        return [ir.node("Add", [product, added], name=f"{node.name}_bias")]
    graph = node.graph
    assert isinstance(graph, ir.Graph)
    return [ir.node("Sub", [product, add_constant(graph, f"{added.name}_negated", -bias)], name=f"{node.name}_bias")]


def _fuses_with_reader(node: ir.Node) -> bool:
    """Whether onnxruntime makes Gemm and the function that reads it one node."""
    return any(reader.op_type in FUSED_WITH_GEMM for reader, _ in node.outputs[0].uses())


def _cast_weight(node: ir.Node, matrices: Matrices, stored: _Stored) -> None:
    """Cast(int8) * scale as the node's weight; one chain for all that read it with output channels along one axis."""
    value, weight = node.inputs[1], constant_of(node.inputs[1])
    assert value is not None
    assert weight is not None
    axis = weight_axis(node, weight.ndim)
    if (value, axis) not in stored:
        stored[value, axis] = store_as_integers(matrices.graph, value, weight, axis, matrices.method)
    node.replace_input_with(1, stored[value, axis])
