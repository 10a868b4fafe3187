"""The networks that the kernels' budgets are for: one layer each, and MLPerf Tiny's ResNet8. Weights are random."""

from __future__ import annotations

from qdq_graphs import Net, Tensor

from edgeopt.model import Model

__all__ = ["NETWORKS", "depthwise", "pointwise", "residual_add", "resnet8"]

AROUND = [1, 1, 1, 1]


def depthwise() -> Model:
    """3x3, 64 channels, 16x16: 147,456 MACs."""
    net = Net(64, 16, 16)
    return net.model(net.conv(net.x, 64, group=64, pads=AROUND))


def pointwise() -> Model:
    """1x1, 64 to 64 channels, 16x16: 1,048,576 MACs."""
    net = Net(64, 16, 16)
    return net.model(net.conv(net.x, 64, (1, 1)))


def residual_add() -> Model:
    """Two tensors of 16,384 elements."""
    net = Net(64, 16, 16)
    return net.model(net.add(net.x, net.x))


def resnet8() -> Model:
    """3x32x32 to 10 classes: 77,360 weights, 12,501,632 MACs."""
    net = Net(3, 32, 32)
    x = net.conv(net.x, 16, pads=AROUND)
    for channels in (16, 32, 64):
        x = _block(net, x, channels)
    return net.model(net.gemm(net.same(net.average(x, "GlobalAveragePool"), "Flatten"), 10))


def _block(net: Net, x: Tensor, channels: int) -> Tensor:
    strides = [1, 1] if x.shape[1] == channels else [2, 2]
    skip = x if strides == [1, 1] else net.conv(x, channels, (1, 1), strides=strides)
    pads = AROUND if strides == [1, 1] else [0, 0, 1, 1]
    y = net.conv(net.conv(x, channels, pads=pads, strides=strides), channels, pads=AROUND)
    return net.add(skip, y)


NETWORKS = {
    "ResNet8": resnet8,
    "depthwise 3x3, 64 channels, 16x16": depthwise,
    "1x1, 64 to 64, 16x16": pointwise,
    "residual add, 64x16x16": residual_add,
}
