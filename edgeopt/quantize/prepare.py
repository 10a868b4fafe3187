"""The float model as it will be deployed: what every kind of quantization starts from."""

from __future__ import annotations

import numpy as np

from edgeopt.errors import UsageError
from edgeopt.model.model import Model
from edgeopt.model.quantized import refuse_quantized
from edgeopt.stage import Context
from edgeopt.tiers import Tier

__all__ = ["LOWEST_OPSET", "prepare"]

LOWEST_OPSET = 13
"""The first in which DequantizeLinear has a scale for each channel."""


def prepare(model: Model, tier: Tier, context: Context) -> Model:
    """The model still in float: checked, simplified, opset 13 or newer, dtypes inferred.

    What is left of BatchNormalization has no integer kernel anywhere; Mul and Add have, where nothing may stay float.
    Raises UsageError for a model that is quantized already or has weights that are not finite.
    """
    from edgeopt.model.child import convert_opset
    from edgeopt.model.shapes import infer_shapes
    from edgeopt.model.simplify import simplify, split_batchnorm

    refuse_quantized(model)
    _refuse_infinite(model)
    batch = None if tier.dynamic_batch else 1
    simple = simplify(model, batch=batch, progress=context.progress)
    if simple.graph.opset_imports.get("", LOWEST_OPSET) < LOWEST_OPSET:
        simple = convert_opset(simple, LOWEST_OPSET)
    shaped = infer_shapes(simple, batch)
    return split_batchnorm(shaped) if tier.integer_only else shaped


def _refuse_infinite(model: Model) -> None:
    for name, array in model.weights().items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise UsageError(f"weight {name!r} holds NaN or infinite values", fix="take an earlier checkpoint")
