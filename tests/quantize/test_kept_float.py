"""A layer that was asked to stay in float computes in float, whatever the runtime does to graphs."""

from collections.abc import Callable

import numpy as np
import onnx
import pytest

from edgeopt.model.passes.edit import constant_of
from edgeopt.model.runtime import open_session, run
from edgeopt.quantize import MinMax, Quantize
from edgeopt.quantize.verify import fused_operators
from edgeopt.tiers import load_tier


@pytest.mark.parametrize("operator", ["Conv", "ConvTranspose", "Gemm"])
def test_onnxruntime_does_not_round_its_weights(
    operator: str,
    unsimplified: None,
    new_net: Callable,
    make_images: Callable,
    make_context: Callable,
    measure_sqnr: Callable,
) -> None:
    """Between DQ and Q onnxruntime rounds float weights to int8 with one scale for all of them: here that is ruin, as
    one input channel is always zero and has weights that are 1,000 times the others."""
    net = new_net()
    scale = np.ones((8, 1, 1, 1), np.float32)
    scale[3] = 0.0
    x = net.add("Relu", net.add("Conv", "x", net.constant(_normal(net, 8, 3, 3, 3) * scale), pads=[1] * 4))
    if operator == "Gemm":
        x = net.add("Flatten", net.add("GlobalAveragePool", x))
        w = _normal(net, 8, 8)
        w[:, 3] *= 1000
        x = net.add("Gemm", x, net.constant(w), transB=1)
        model = net.model(net.add("Gemm", net.add("Relu", x), net.weight(5, 8), transB=1))
    else:
        w = _normal(net, 8, 8, 3, 3)
        channel = (slice(None), 3) if operator == "Conv" else (3,)
        w[channel] *= 1000
        x = net.add("Relu", net.add(operator, x, net.constant(w), pads=[1] * 4))
        x = net.add("Relu", net.conv(x, 8, 8))
        model = net.model(net.head(x, 8, 5))
    name = next(n.name for n in model.graph.graph if (w_ := _weight(n)) is not None and np.abs(w_).max() > 100)
    images = make_images(16)
    for tier in ("any", "jetson"):
        context = make_context(images, tier=load_tier(tier))
        kept = Quantize(calibrator=MinMax(), exclude=(name,)).apply(model, context).model
        onnx.checker.check_model(kept.to_proto(), full_check=True)
        operators = [op for _, op in fused_operators(kept, load_tier(tier).session)]
        assert any(op in (operator, f"Fused{operator}") for op in operators)
        expected, found = (run(open_session(m), images)[0] for m in (model, kept))
        assert measure_sqnr(expected, found) > 25
        assert {op for _, op in fused_operators(kept, {})} >= ({"QLinearConv"} if tier == "any" else set())


def _weight(node: object) -> np.ndarray | None:
    return constant_of(node.inputs[1]) if len(node.inputs) > 1 else None  # type: ignore[attr-defined]


def _normal(net: object, *shape: int) -> np.ndarray:
    found: np.ndarray = net.random.standard_normal(shape).astype(np.float32) * np.float32(0.2)  # type: ignore[attr-defined]
    return found
