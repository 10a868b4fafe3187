"""Cores in the emulator: equal integers, and instruction, flash and RAM budgets (all of them deterministic)."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from qdq_graphs import Net, Tensor

from edgeopt.mcu.build import Run, run_on_core
from edgeopt.mcu.compile import Compiled, compile_model
from edgeopt.mcu.reference import Reference
from edgeopt.model import Model

TOOLS = ("arm-none-eabi-gcc", "qemu-system-arm")
pytestmark = pytest.mark.skipif(
    not all(map(shutil.which, TOOLS)),
    reason="needs apt-get install gcc-arm-none-eabi libnewlib-arm-none-eabi qemu-system-arm",
)
CORES = ["cortex-m3", "cortex-m4", "cortex-m7", "cortex-m55"]


def run(model: Model, core: str, folder: Path, count: int = 2) -> tuple[int, Run, Compiled]:
    """Outputs that differ from onnxruntime's, the figures, and the program."""
    compiled = compile_model(model)
    reference = Reference(model, compiled.program)
    inputs = reference.noise(count, seed=3)
    done = run_on_core(compiled, inputs, core, folder)
    return int((done.outputs != reference.run(inputs)).sum()), done, compiled


def residual() -> Model:
    """MLPerf Tiny's ResNet8: 12,501,632 MACs."""
    net = Net(3, 32, 32)
    same = {"pads": [1, 1, 1, 1]}

    def block(x: Tensor, channels: int, stride: int) -> Tensor:
        y = net.conv(net.conv(x, channels, strides=[stride] * 2, **same), channels, **same)
        return net.add(y, x if stride == 1 else net.conv(x, channels, (1, 1), strides=[2, 2]))

    x = net.conv(net.x, 16, **same)
    for channels, stride in ((16, 1), (32, 2), (64, 2)):
        x = block(x, channels, stride)
    return net.model(net.gemm(net.same(net.average(x, "GlobalAveragePool"), "Flatten"), 10))


def awkward() -> Model:
    """Odd widths, channels that are no multiple of anything, every way through the convolution kernels."""
    net = Net(3, 13, 17)
    x = net.conv(net.x, 7, (3, 3), pads=[1, 1, 1, 1], strides=[2, 2])
    x = net.add(net.conv(x, 11, (1, 1)), net.conv(x, 11, (5, 3), pads=[2, 1, 2, 1]))
    x = net.unary(net.conv(x, 5, (3, 3), dilations=[2, 2], pads=[2, 2, 2, 2]), "HardSwish")
    x = net.conv(net.conv(x, 13, (1, 1), strides=[2, 2]), 13, group=13, pads=[1, 1, 1, 1])
    x = net.mul(x, net.unary(net.conv(net.average(x, "GlobalAveragePool"), 13, (1, 1)), "HardSigmoid"))
    x = net.concat(x, net.conv(x, 3, (2, 2), pads=[0, 0, 1, 1]))
    return net.model(net.softmax(net.gemm(net.same(x, "Flatten"), 9)))


@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize("network", [awkward, residual])
def test_core_gives_the_same_integers(network: Callable[[], Model], core: str, tmp_path: Path) -> None:
    assert run(network(), core, tmp_path)[0] == 0


@pytest.mark.parametrize(("core", "per_mac"), [("cortex-m4", 1.15), ("cortex-m7", 1.15), ("cortex-m55", 0.19)])
def test_resnet8_within_its_budgets(core: str, per_mac: float, tmp_path: Path) -> None:
    _, done, compiled = run(residual(), core, tmp_path, count=1)
    assert compiled.program.macs == 12_501_632
    assert done.instructions <= per_mac * compiled.program.macs
    assert done.code_bytes + done.constant_bytes <= 88_000
    assert done.static_bytes + done.stack_bytes <= 37_000


@pytest.mark.parametrize(("core", "per_mac"), [("cortex-m4", 1.25), ("cortex-m55", 0.24)])
def test_pointwise_within_its_budget(core: str, per_mac: float, tmp_path: Path) -> None:
    net = Net(64, 16, 16)
    _, done, compiled = run(net.model(net.conv(net.x, 64, (1, 1))), core, tmp_path, count=1)
    assert done.instructions <= per_mac * compiled.program.macs
