"""The float model as it will be deployed: what every kind of quantization starts from."""

from __future__ import annotations

import numpy as np

from edgeopt.errors import UsageError
from edgeopt.model.model import Model
from edgeopt.model.quantized import refuse_quantized
from edgeopt.quantize.masks import is_mask
from edgeopt.stage import Context
from edgeopt.tiers import Tier

__all__ = ["LOWEST_OPSET", "prepare"]

LOWEST_OPSET = 13
"""The first in which DequantizeLinear has a scale for each channel."""
HIGHEST_OPSET = 27
"""The last whose QuantizeLinear onnxruntime (1.32) has a kernel for."""


def prepare(model: Model, tier: Tier, context: Context) -> Model:
    """The model still in float: checked, simplified, in an opset from 13 to 27, dtypes inferred.

    What is left of BatchNormalization has no integer kernel anywhere; Mul and Add have, where nothing may stay float.
    Where the model runs here, widths are brought to what onnxruntime's kernels like.
    Raises UsageError for a model that is quantized already or has weights that are not finite (-inf in an attention
    mask apart).
    """
    from edgeopt.model.child import convert_opset
    from edgeopt.model.shapes import infer_shapes
    from edgeopt.model.simplify import simplify, split_batchnorm
    from edgeopt.quantize.speed import align_widths

    refuse_quantized(model)
    _refuse_infinite(model)
    batch = None if tier.dynamic_batch else 1
    simple = simplify(model, batch=batch, progress=context.progress)
    opset = simple.graph.opset_imports.get("", LOWEST_OPSET)
    wanted = min(max(opset, LOWEST_OPSET), HIGHEST_OPSET)
    if opset != wanted:
        simple = convert_opset(simple, wanted)
    shaped = infer_shapes(simple, batch)
    if tier.integer_only:
        return split_batchnorm(shaped)
    return align_widths(shaped) if tier.measured_here else shaped


def _refuse_infinite(model: Model) -> None:
    """An attention mask may hold -inf; it stays in float (`masks`)."""
    values = model.graph.graph.initializers
    for name, array in model.weights().items():
        if array.dtype.kind == "f" and not np.isfinite(array).all() and not is_mask(values[name]):
            raise UsageError(f"weight {name!r} holds NaN or infinite values", fix="take an earlier checkpoint")
