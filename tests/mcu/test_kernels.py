"""Depthwise, elementwise and pooling kernels: exact in every shape, in place where they can be, within budgets."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from mcu_graphs import depthwise, residual_add
from mcu_host import differences
from qdq_graphs import Net, Tensor

from edgeopt.mcu.build import Run, run_on_core
from edgeopt.mcu.compile import Compiled, compile_model
from edgeopt.mcu.cores import HELIUM, PACKINGS, PAIRS
from edgeopt.mcu.lower_depthwise import tiles
from edgeopt.mcu.program import Conv
from edgeopt.mcu.reference import Reference
from edgeopt.model import Model

needs_host = pytest.mark.skipif(shutil.which("gcc") is None, reason="needs a C compiler: apt-get install gcc")
needs_cores = pytest.mark.skipif(
    not all(map(shutil.which, ("arm-none-eabi-gcc", "qemu-system-arm"))),
    reason="needs apt-get install gcc-arm-none-eabi libnewlib-arm-none-eabi qemu-system-arm",
)


def window(
    channels: int, size: tuple[int, int], kernel: tuple[int, int] = (3, 3), times: int = 1, **settings: object
) -> Model:
    """A depthwise convolution between two others, so that it may work in place."""
    net = Net(channels, *size, seed=channels)
    x = net.conv(net.conv(net.x, channels, (1, 1)), channels * times, kernel, group=channels, **settings)
    return net.model(net.conv(x, 5, (1, 1)))


WINDOWS: dict[str, Callable[[], Model]] = {
    "3x3, odd": lambda: window(7, (9, 11), pads=[1, 1, 1, 1]),
    "3x3, wide": lambda: window(3, (5, 29), pads=[1, 1, 1, 1]),
    "3x3, one pixel": lambda: window(6, (1, 1), pads=[1, 1, 1, 1]),
    "3x3, stride 2": lambda: window(5, (13, 15), strides=[2, 2], pads=[0, 0, 1, 1]),
    "3x3, stride 2, even": lambda: window(8, (16, 18), strides=[2, 2], pads=[1, 1, 1, 1]),
    "3x3, strides 1 and 2": lambda: window(5, (13, 15), strides=[1, 2], pads=[0, 2, 1, 1]),
    "3x3, strides 2 and 1": lambda: window(5, (13, 15), strides=[2, 1], pads=[2, 0, 1, 1]),
    "3x3, stride 3": lambda: window(6, (11, 17), strides=[3, 3], pads=[1, 1, 1, 1]),
    "3x3, more output than input": lambda: window(6, (7, 6), pads=[2, 2, 2, 2]),
    "3x3, two outputs for each input": lambda: window(5, (7, 7), times=2, pads=[1, 1, 1, 1]),
    "3x3, gaps between rows": lambda: window(5, (13, 15), dilations=[2, 1], pads=[2, 1, 2, 1]),
    "3x3, gaps": lambda: window(5, (13, 15), dilations=[2, 3], pads=[2, 3, 2, 3]),
    "2x2": lambda: window(5, (8, 15), (2, 2)),
    "4x1": lambda: window(5, (13, 15), (4, 1), pads=[2, 0, 1, 0]),
    "1x9": lambda: window(6, (1, 49), (1, 9), pads=[0, 4, 0, 4]),
    "5x5": lambda: window(6, (12, 11), (5, 5), pads=[2, 2, 2, 2]),
    "5x5, stride 2": lambda: window(6, (13, 12), (5, 5), strides=[2, 2], pads=[2, 2, 2, 2]),
    "7x7": lambda: window(3, (13, 19), (7, 7), pads=[3, 3, 3, 3]),
}


def first(net: Net, channels: int = 7) -> Tensor:
    return net.conv(net.x, channels, (1, 1))


def layers(make: Callable[[Net], Tensor]) -> Callable[[], Model]:
    def model() -> Model:
        net = Net(3, 7, 9)
        return net.model(make(net))

    return model


OTHERS: dict[str, Callable[[], Model]] = {
    "add": layers(lambda net: net.add(first(net), first(net))),
    "add, one per channel": layers(lambda net: net.add(first(net), net.given(1, 7, 1, 1))),
    "add a number": layers(lambda net: net.add(first(net), net.given())),
    "mul": layers(lambda net: net.mul(first(net), first(net))),
    "mul, one per channel": layers(lambda net: net.mul(first(net), net.given(1, 7, 1, 1))),
    "mul, 37 channels": layers(lambda net: net.mul(first(net, 37), net.given(1, 37, 1, 1))),
    "max pool": layers(
        lambda net: net.same(first(net), "MaxPool", kernel_shape=[3, 2], strides=[2, 1], pads=[1, 0, 1, 1])
    ),
    "max pool, 37 channels": layers(
        lambda net: net.same(first(net, 37), "MaxPool", kernel_shape=[2, 2], dilations=[2, 1], strides=[1, 2])
    ),
    "average pool": layers(lambda net: net.average(first(net), kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])),
    "global average": layers(lambda net: net.average(first(net, 37), "GlobalAveragePool")),
}
CASES = WINDOWS | OTHERS


def run(model: Model, core: str, folder: Path, count: int = 2) -> tuple[int, Run, Compiled]:
    """Outputs that differ from onnxruntime's, the figures, and the program."""
    compiled = compile_model(model)
    reference = Reference(model, compiled.program)
    inputs = reference.noise(count, seed=2)
    done = run_on_core(compiled, inputs, core, folder)
    return int((done.outputs != reference.run(inputs)).sum()), done, compiled


@needs_host
@pytest.mark.parametrize("name", CASES)
def test_plain_c_is_exact(name: str) -> None:
    assert differences(CASES[name](), 3, ("-O0",))[0] == 0


@needs_cores
@pytest.mark.slow
@pytest.mark.parametrize("core", ["cortex-m4", "cortex-m55"])
@pytest.mark.parametrize("name", CASES)
def test_core_is_exact(name: str, core: str, tmp_path: Path) -> None:
    assert run(CASES[name](), core, tmp_path)[0] == 0


@needs_cores
@pytest.mark.parametrize(("core", "per_mac"), [("cortex-m4", 3.0), ("cortex-m7", 3.0), ("cortex-m55", 0.7)])
def test_depthwise_within_its_budget(core: str, per_mac: float, tmp_path: Path) -> None:
    differing, done, compiled = run(depthwise(), core, tmp_path, count=1)
    assert differing == 0
    assert compiled.program.macs == 147_456
    assert done.instructions <= per_mac * compiled.program.macs


@needs_cores
@pytest.mark.parametrize(("core", "per_element"), [("cortex-m4", 13.0), ("cortex-m7", 13.0), ("cortex-m55", 2.75)])
def test_residual_add_within_its_budget(core: str, per_element: float, tmp_path: Path) -> None:
    differing, done, compiled = run(residual_add(), core, tmp_path, count=1)
    assert differing == 0
    assert done.instructions <= per_element * compiled.program.output.size


@pytest.mark.parametrize("strides", [[1, 1], [2, 2]])
def test_depthwise_output_takes_the_place_of_the_input(strides: list[int]) -> None:
    compiled = compile_model(window(16, (24, 24), pads=[1, 1, 1, 1], strides=strides))
    made, read = compiled.program.ops[1].output, compiled.program.ops[1].inputs[0]
    for packing in PACKINGS:
        plan = compiled.arena.plans[packing]
        assert 0 <= plan.offsets[read.name] - plan.offsets[made.name] < made.size
        assert plan.size < read.size + 3_000  # the channel's plane is all that comes on top


def test_depthwise_in_place_needs_a_place_for_every_output() -> None:
    more, twice = WINDOWS["3x3, more output than input"], WINDOWS["3x3, two outputs for each input"]
    assert [compile_model(model()).calls[1].over for model in (more, twice)] == [{}, {}]


def test_tiles_leave_room_for_the_row_below() -> None:
    found = {}
    for name in ("3x3, odd", "4x1", "5x5", "5x5, stride 2", "7x7"):
        (op,) = (op for op in compile_model(WINDOWS[name]()).program.ops if isinstance(op, Conv) and op.depthwise)
        found[name] = tiles(op)
    assert found == {"3x3, odd": (1, 1), "4x1": (2, 1), "5x5": (2, 2), "5x5, stride 2": (2, 2), "7x7": (2, 2)}


def test_a_plane_is_smaller_than_a_ring_of_rows() -> None:
    call = compile_model(depthwise()).calls[0]
    assert call.scratch[PAIRS] < 1_000
    assert call.scratch[HELIUM] < 1_200
