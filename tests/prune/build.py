"""Small graphs for the pruning tests, written as ONNX text, with random weights."""

from __future__ import annotations

import numpy as np
import onnx.parser
import onnx_ir as ir

from edgeopt.model import Model
from edgeopt.prune.groups import Plan, make_plan
from edgeopt.prune.trace import trace

BN = ("scale", "bias", "mean", "var")


def build(body: str, weights: dict[str, tuple[int, ...] | np.ndarray], *, io: str, seed: int = 0) -> Model:
    """A model of `body` (nodes in ONNX text) whose weights are random where only a shape is given."""
    rng = np.random.default_rng(seed)
    text = f'<ir_version: 8, opset_import: ["" : 18]> test {io} {{ {body} }}'
    proto = onnx.parser.parse_model(text)
    for name, given in weights.items():
        if isinstance(given, tuple):
            array = rng.standard_normal(given).astype(np.float32)
            array = np.abs(array) + 0.5 if name.endswith(".var") else array
        else:
            array = given
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    for number, node in enumerate(proto.graph.node):
        node.name = f"n{number}"
    model = ir.from_proto(proto)
    return Model(ir.passes.common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model).model)


def norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
    """Weights of one BatchNormalization."""
    return {f"{name}.{part}": (width,) for part in BN}


def plan_of(model: Model) -> Plan:
    return make_plan(trace(model))


def every_other(plan: Plan, seed: int = 0) -> np.ndarray:
    """Half of each group leaves, by chance."""
    rng = np.random.default_rng(seed)
    kept = plan.everything()
    for group in plan.groups:
        kept[rng.permutation(group.units)[: len(group) // 2]] = False
    return kept
