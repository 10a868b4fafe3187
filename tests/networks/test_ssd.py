"""The detector family: sizes, settings, and what it says at first."""

import pytest
import torch

from edgeopt.errors import UsageError
from edgeopt.networks import ssd
from edgeopt.train.precision import count_arithmetic


def macs(network):
    arithmetic = count_arithmetic(network, torch.zeros(1, *network.input_shape))
    return arithmetic.dense_macs + arithmetic.grouped_macs


def test_separable_convolutions_take_a_fraction_of_the_arithmetic():
    assert macs(ssd(lite=False)) == 30_938_112
    assert macs(ssd()) == 4_747_392


@pytest.mark.parametrize("lite", [True, False])
def test_it_begins_with_nothing(lite):
    network = ssd(classes=3, size=64, width=8, lite=lite).eval()
    outputs = network(torch.randn(2, 3, 64, 64))
    assert outputs.shape[2] == 1 + 3 + 4
    torch.testing.assert_close(outputs[..., :4].softmax(-1)[..., 0].mean().item(), 0.99, atol=0.01, rtol=0)


@pytest.mark.parametrize("settings", [{"width": 0}, {"blocks": ()}, {"maps": 3, "blocks": (1, 1)}, {"size": 0}])
def test_settings_that_make_no_network_are_refused(settings):
    with pytest.raises(UsageError):
        ssd(**settings)
