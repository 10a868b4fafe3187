"""A mean spreads over a fraction of its input's range: with the input's scale most of its 256 levels are wasted."""

from collections.abc import Callable

import numpy as np
import pytest

from edgeopt.model.runtime import open_session, run
from edgeopt.quantize.build import Builder, wanted_tensors
from edgeopt.quantize.calibrators import MinMax
from edgeopt.quantize.insert import insert
from edgeopt.quantize.observe import observe
from edgeopt.quantize.prepare import prepare
from edgeopt.quantize.verify import fused_operators
from edgeopt.quantize.weights import MaxScale
from edgeopt.stage import Context
from edgeopt.tiers import load_tier


@pytest.mark.parametrize("operator", ["GlobalAveragePool", "AveragePool"])
@pytest.mark.parametrize("tier", ["any", "mcu"])
def test_an_average_pool_has_a_scale_of_its_own(
    operator: str, tier: str, unsimplified: None, new_net: Callable, make_images: Callable, measure_sqnr: Callable
) -> None:
    """Maps with few large values among zeros, as behind ReLUs: their mean is a hundredth of the largest."""
    net = new_net(channels=8, size=16)
    x = net.add("Relu", net.add("Conv", "x", net.constant(np.eye(8, dtype=np.float32)[:, :, None, None])))
    sizes = {} if operator == "GlobalAveragePool" else {"kernel_shape": [16, 16]}
    flat = net.add("Flatten", net.add(operator, x, **sizes))
    model = net.model(net.add("Gemm", flat, net.weight(5, 8), net.bias(5), transB=1))
    random = np.random.default_rng(0)
    images = np.where(random.random((16, 8, 16, 16)) < 0.02, random.exponential(3, (16, 8, 16, 16)), 0)
    images = images.astype(np.float32)
    chosen = load_tier(tier)
    prepared = prepare(model, chosen, Context(tier=chosen))
    seen = observe(prepared, wanted_tensors(prepared, chosen), (images[i : i + 1] for i in range(16)), counts=True)
    built = Builder(prepared, chosen, seen.histograms, MinMax(), MaxScale()).build()
    assert any("AveragePool" in op and op.startswith("QLinear") for _, op in fused_operators(built.model, {}))
    pool = next(node for node in prepared.graph.graph if node.op_type == operator)
    groups = {point.tensor: point.group for point in built.plan.points}
    read, made = groups[pool.inputs[0].name], groups[pool.outputs[0].name]
    assert built.grids[made].scale < built.grids[read].scale / 10
    shared = insert(prepared, built.plan, built.grids | {made: built.grids[read]}, chosen.placement, MaxScale())
    expected, own, worse = (
        np.concatenate([run(open_session(m, entries=chosen.session), images[i : i + 1])[0] for i in range(16)])
        for m in (prepared, built.model, shared)
    )
    assert measure_sqnr(expected, own) > measure_sqnr(expected, worse) + 10
