"""What each operator does to labels: one function per operator, taking the node and the `Tracer`.

A rule returns False when it does not cover the form at hand (a transposed A of Gemm, a shape that is unknown);
the node is then treated as an operator without a rule.
"""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from edgeopt.prune.rules import (
    attention,
    contract,
    einsum,
    elementwise,
    indexing,
    movement,
    normalize,
    reshape,
    spatial,
)
from edgeopt.prune.trace import Tracer

__all__ = ["RULES"]

Rule = Callable[[ir.Node, Tracer], bool]

# fmt: off
_UNARY = (
    "Abs", "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "BitwiseNot", "Cast", "CastLike", "Ceil", "Celu",
    "Clip", "Cos", "Cosh", "Dropout", "Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid", "HardSwish", "Identity",
    "IsInf", "IsNaN", "LeakyRelu", "Log", "LpNormalization", "Mish", "Neg", "Not", "Reciprocal", "Relu", "Round",
    "Selu", "Shrink", "Sigmoid", "Sign", "Sin", "Sinh", "Softplus", "Softsign", "Sqrt", "Swish", "Tan", "Tanh",
    "ThresholdedRelu",
)
_BROADCAST = (
    "Add", "And", "BitwiseAnd", "BitwiseOr", "Div", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual",
    "Max", "Mean", "Min", "Mod", "Mul", "Or", "PRelu", "Pow", "Sub", "Sum", "Where", "Xor",
)
_POOLS = ("AveragePool", "GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool", "LpPool", "MaxPool")
_REDUCTIONS = (
    "ArgMax", "ArgMin", "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean",
    "ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare",
)
# fmt: on

RULES: dict[str, Rule] = {
    **dict.fromkeys(_UNARY, elementwise.unary),
    **dict.fromkeys(_BROADCAST, elementwise.broadcast),
    **dict.fromkeys(_POOLS, spatial.pool),
    **dict.fromkeys(_REDUCTIONS, normalize.reduce),
    "Attention": attention.attention,
    "Conv": contract.conv,
    "ConvTranspose": contract.conv_transpose,
    "Einsum": einsum.einsum,
    "Gemm": contract.gemm,
    "MatMul": contract.matmul,
    "BatchNormalization": normalize.batch_normalization,
    "GroupNormalization": normalize.group_normalization,
    "InstanceNormalization": normalize.instance_normalization,
    "LayerNormalization": normalize.layer_normalization,
    "MeanVarianceNormalization": normalize.mean_variance_normalization,
    "RMSNormalization": normalize.layer_normalization,
    "Softmax": normalize.softmax,
    "LogSoftmax": normalize.softmax,
    "Hardmax": normalize.softmax,
    "Col2Im": spatial.col2im,
    "Concat": movement.concat,
    "ConstantOfShape": movement.nothing,
    "CumSum": indexing.along_axis,
    "DepthToSpace": spatial.depth_to_space,
    "Expand": movement.expand,
    "Flatten": reshape.reshape,
    "Gather": movement.gather,
    "GatherElements": indexing.whole,
    "GatherND": indexing.gather_nd,
    "GridSample": spatial.grid_sample,
    "MaxRoiPool": spatial.roi_align,
    "Pad": movement.pad,
    "Range": movement.nothing,
    "Reshape": reshape.reshape,
    "Resize": spatial.resize,
    "RoiAlign": spatial.roi_align,
    "ScatterElements": indexing.whole,
    "ScatterND": indexing.scatter_nd,
    "Shape": movement.nothing,
    "Size": movement.nothing,
    "Slice": movement.slice_,
    "SpaceToDepth": spatial.space_to_depth,
    "Split": movement.split,
    "Squeeze": reshape.reshape,
    "Tile": movement.tile,
    "TopK": indexing.along_axis,
    "Transpose": movement.transpose,
    "Trilu": indexing.whole,
    "Unsqueeze": reshape.reshape,
    "Upsample": spatial.resize,
}
