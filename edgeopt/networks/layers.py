"""What the network families share."""

from __future__ import annotations

from torch import nn

from edgeopt.errors import UsageError

__all__ = ["check_positive", "conv_norm", "initialize"]


def conv_norm(
    inside: int,
    outside: int,
    kernel: int | tuple[int, ...],
    stride: int = 1,
    *,
    groups: int = 1,
    padding: int | tuple[int, ...] | None = None,
) -> nn.Sequential:
    """Convolution without bias and BatchNormalization; the default padding keeps the size (odd kernels)."""
    sides = (kernel, kernel) if isinstance(kernel, int) else kernel
    pads = tuple(side // 2 for side in sides) if padding is None else padding
    conv = nn.Conv2d(inside, outside, sides, stride, pads, groups=groups, bias=False)  # type: ignore[arg-type]
    return nn.Sequential(conv, nn.BatchNorm2d(outside))


def initialize(network: nn.Module) -> None:
    """He's initialisation for ReLU networks (arXiv 1502.01852), fan-out; the classifier's bias is zero."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)


def check_positive(**settings: int) -> None:
    """Raise UsageError naming the first setting below 1."""
    for name, value in settings.items():
        if value < 1:
            raise UsageError(f"{name} is {value}", fix=f"{name} has to be 1 or more")
