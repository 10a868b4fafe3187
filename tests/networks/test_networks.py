"""The families at the settings of their papers have the published sizes."""

import pytest
import torch
from torch import nn

from edgeopt.errors import UsageError
from edgeopt.networks import residual, separable
from edgeopt.train.precision import count_arithmetic


def weights(network):
    """Convolution and dense weights, without biases and BatchNormalization."""
    layers = (nn.Conv2d, nn.Linear)
    return sum(module.weight.numel() for module in network.modules() if isinstance(module, layers))


def parameters(network):
    return sum(parameter.numel() for parameter in network.parameters())


def macs(network):
    arithmetic = count_arithmetic(network, torch.zeros(1, *network.input_shape))
    return arithmetic.dense_macs + arithmetic.grouped_macs


def mobilenet(width, classes, size):
    return separable(classes, size=size, width=64 * width // 4, blocks=(1, 2, 2, 6, 2), stem=8 * width, stem_stride=2)


def test_the_default_is_mlperf_tinys_resnet8():
    network = residual()
    assert weights(network) == 77_360
    assert macs(network) == 12_501_632


def test_more_of_the_arithmetic_may_lie_in_the_middle():
    network = residual(blocks=(0, 3, 1), widths=(16, 32, 48))
    assert weights(network) == 88_208
    assert macs(network) == 15_860_192
    assert [tuple(block(torch.zeros(1, 16, 32, 32)).shape) for block in network.blocks[:1]] == [(1, 32, 16, 16)]


def test_widths_are_what_width_stands_for():
    one, other = residual(width=4, blocks=(1, 2)), residual(widths=(4, 8), blocks=(1, 2))
    assert {k: v.shape for k, v in one.state_dict().items()} == {k: v.shape for k, v in other.state_dict().items()}


def test_resnet20_has_hes_size():
    """0.27 M parameters (arXiv 1512.03385, table 6), 41 M multiply-adds."""
    network = residual(blocks=(3, 3, 3))
    assert parameters(network) == pytest.approx(0.27e6, rel=0.02)
    assert macs(network) == pytest.approx(41e6, rel=0.01)


def test_mobilenet_has_howards_size():
    """Table 8 of arXiv 1704.04861: 569 million multiply-adds, 4.2 million parameters."""
    network = mobilenet(4, 1000, 224)
    assert parameters(network) == 4_231_976
    assert macs(network) == pytest.approx(569e6, rel=0.001)


def test_mobilenet_at_a_quarter_is_mlperf_tinys_person_detector():
    assert macs(mobilenet(1, 2, 96)) == pytest.approx(7.49e6, rel=0.01)


def test_ds_cnn_is_mlperf_tinys_keyword_spotter():
    network = separable(12, 1, size=(49, 10), width=64, blocks=(4,), stem_kernel=(10, 4), stem_stride=2)
    assert macs(network) == pytest.approx(2.66e6, rel=0.01)
    assert network.stem(torch.zeros(2, 1, 49, 10)).shape == (2, 64, 25, 5)


@pytest.mark.parametrize(
    "network",
    [
        residual(7, 1, 8, 4, (1, 1)),
        residual(blocks=[2, 1]),
        residual(size=8, blocks=(0, 2, 1), widths=(4, 6, 7)),
        separable(5, 1, 12, 8, (1, 1)),
        separable(width=6, blocks=[1], stem=3, stem_stride=2),
    ],
)
def test_networks_take_what_they_say_and_train(network):
    logits = network(torch.randn(4, *network.input_shape))
    assert logits.shape == (4, network.classifier.out_features)
    logits.sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


@pytest.mark.parametrize("network", [residual(width=4), separable(width=4)])
def test_only_what_integer_kernels_exist_for(network):
    allowed = (nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.Identity, nn.AdaptiveAvgPool2d, nn.Linear)
    leaves = [module for module in network.modules() if not list(module.children())]
    assert all(isinstance(leaf, allowed) for leaf in leaves)
    assert all(leaf.bias is None for leaf in leaves if isinstance(leaf, nn.Conv2d))


@pytest.mark.parametrize(
    ("family", "settings", "name"),
    [
        (residual, {"width": 0}, "width"),
        (residual, {"blocks": ()}, "blocks"),
        (residual, {"blocks": (1, 0)}, "blocks"),
        (residual, {"blocks": (0,)}, "blocks"),
        (residual, {"blocks": (1, 1), "widths": (8, 0)}, "widths"),
        (residual, {"blocks": (1, 1), "widths": (8,)}, "widths has 1 entries"),
        (separable, {"stem_stride": 0}, "stem_stride"),
        (separable, {"size": (8, 0)}, "size"),
    ],
)
def test_settings_below_one_are_refused(family, settings, name):
    with pytest.raises(UsageError, match=name):
        family(**settings)
