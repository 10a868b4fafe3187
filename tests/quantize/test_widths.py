"""Widened networks compute the same."""

import numpy as np
import pytest

from edgeopt.model.runtime import open_session, run
from edgeopt.quantize.speed.widths import align_widths


def outputs(model, channels=8):
    x = np.random.default_rng(0).standard_normal((2, channels, 16, 16)).astype(np.float32)
    return run(open_session(model, threads=1, optimize=False), x)[0]


def widths(model):
    weights = {n.name: n.inputs[1].const_value.shape for n in model.graph.graph if n.op_type == "Conv"}
    return [tuple(shape)[:2] for shape in weights.values()]


@pytest.fixture
def squeeze_excite(new_net):
    """Expand to 72, depthwise, squeeze-excite, project to 8, residual."""

    def make(width=72, output=False):
        net = new_net(channels=8, size=16)
        y = net.add("HardSigmoid", net.conv("x", 8, width, 1))
        y = net.add("Relu", net.conv(y, width, width, group=width))
        s = net.add("Relu", net.conv(net.add("GlobalAveragePool", y), width, 24, 1))
        y = net.add("Mul", net.add("HardSigmoid", net.conv(s, 24, width, 1)), y)
        if output:
            return net.model(net.add("Add", net.conv(y, width, 8, 1), "x"), y)
        return net.model(net.add("Add", net.conv(y, width, 8, 1), "x"))

    return make


def test_channels_are_added_on_both_sides_and_change_nothing(squeeze_excite):
    model = squeeze_excite()
    before = model.fingerprint()
    wide = align_widths(model)
    assert widths(model) == [(72, 8), (72, 1), (24, 72), (72, 24), (8, 72)]
    assert widths(wide) == [(80, 8), (80, 1), (24, 80), (80, 24), (8, 80)]
    assert np.allclose(outputs(wide), outputs(model), rtol=0, atol=1e-6)
    assert model.fingerprint() == before


def test_widths_that_fit_or_would_grow_too_much_stay(squeeze_excite):
    for width in (64, 40):
        assert widths(align_widths(squeeze_excite(width))) == widths(squeeze_excite(width))


def test_channels_that_somebody_else_sees_stay(squeeze_excite, new_net):
    assert widths(align_widths(squeeze_excite(output=True))) == widths(squeeze_excite())
    net = new_net(channels=8, size=16)
    y = net.conv(net.conv("x", 8, 72, 1), 72, 72, group=72)
    model = net.model(net.add("Softmax", y, axis=1))
    assert widths(align_widths(model)) == widths(model)


def test_shared_weights_stay(new_net):
    net = new_net(channels=72, size=16)
    y = net.conv("x", 72, 72, 1)
    weight = net.weight(72, 1, 3, 3)
    for _ in range(2):
        y = net.add("Conv", y, weight, group=72, pads=[1] * 4)
    model = net.model(net.conv(y, 72, 8, 1))
    assert widths(align_widths(model)) == widths(model)
