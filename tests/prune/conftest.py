"""Small graphs with random weights, written as ONNX text."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx.numpy_helper
import onnx.parser
import onnx_ir as ir
import pytest

from edgeopt.model import Model
from edgeopt.prune.groups import Plan, make_plan
from edgeopt.prune.trace import trace

IMAGE = "(float[N,3,8,8] x) => (float[N,5] y)"


def build(body: str, weights: Mapping[str, Any], io: str = IMAGE) -> Model:
    """A model of `body` (nodes in ONNX text). A weight is an array, or a shape to fill at random.

    `bn_NAME` of width c stands for the four vectors of BatchNormalization `bn_NAME_scale`, `_bias`, `_mean`, `_var`.
    """
    rng = np.random.default_rng(0)
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 18, "other" : 1]> test {io} {{ {body} }}')
    for name, given in weights.items():
        parts = {f"{name}_{part}": given for part in ("scale", "bias", "mean", "var")}
        for own, value in parts.items() if name.startswith("bn_") else [(name, given)]:
            array = (
                value if isinstance(value, np.ndarray | np.generic) else rng.standard_normal(value).astype(np.float32)
            )
            array = np.abs(array) + np.float32(0.5) if own.endswith("_var") else array
            proto.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array), own))
    for number, node in enumerate(proto.graph.node):
        node.name = f"node{number}"
    return Model(ir.from_proto(proto))


def bn(source: str, name: str) -> str:
    """`BatchNormalization(source, ...)` as ONNX text."""
    return f"BatchNormalization({source}, {name}_scale, {name}_bias, {name}_mean, {name}_var)"


def plan_of(model: Model) -> Plan:
    return make_plan(trace(model))


def half(plan: Plan, seed: int = 0) -> np.ndarray:
    """Half of each group leaves, by chance."""
    rng = np.random.default_rng(seed)
    kept = plan.everything()
    for group in plan.groups:
        kept[rng.permutation(group.units)[: len(group) // 2]] = False
    return kept


@pytest.fixture
def make() -> SimpleNamespace:
    """`make.build`, `make.bn`, `make.plan_of`, `make.half`."""
    return SimpleNamespace(build=build, bn=bn, plan_of=plan_of, half=half)
