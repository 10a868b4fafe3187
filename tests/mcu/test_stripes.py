"""First operators by stripes of rows: the same integers in less memory, whatever the windows."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from qdq_graphs import Net, Tensor

from edgeopt.errors import StageFailed
from edgeopt.export.stage import Export
from edgeopt.mcu.build import run_on_core, run_on_host
from edgeopt.mcu.compile import Compiled, compile_model
from edgeopt.mcu.read import read_program
from edgeopt.mcu.reference import Reference
from edgeopt.mcu.stripes import Striped, stripe, stripe_ends
from edgeopt.model import Model
from edgeopt.stage import Context
from edgeopt.tiers import load_tier

needs_host = pytest.mark.skipif(shutil.which("gcc") is None, reason="needs a C compiler: apt-get install gcc")
needs_cores = pytest.mark.skipif(
    not all(map(shutil.which, ("arm-none-eabi-gcc", "qemu-system-arm"))),
    reason="needs apt-get install gcc-arm-none-eabi libnewlib-arm-none-eabi qemu-system-arm",
)
AROUND = [1, 1, 1, 1]
LEAST = 1
"""No network fits into one byte: as little RAM as stripes can do with."""


def mobilenet() -> Model:
    """MobileNetV1 0.25 for 96x96 images: 7.49 million MACs."""
    net = Net(3, 96, 96)
    x = net.conv(net.x, 8, pads=[0, 0, 1, 1], strides=[2, 2])
    for channels, stride in [
        (16, 1),
        (32, 2),
        (32, 1),
        (64, 2),
        (64, 1),
        (128, 2),
        *[(128, 1)] * 5,
        (256, 2),
        (256, 1),
    ]:
        pads = AROUND if stride == 1 else [0, 0, 1, 1]
        x = net.conv(net.conv(x, x.shape[1], group=x.shape[1], pads=pads, strides=[stride] * 2), channels, (1, 1))
    return net.model(net.gemm(net.same(net.average(x, "GlobalAveragePool"), "Flatten"), 2))


def mixed() -> Model:
    """Everything that is local to rows, odd heights, gaps, strides that differ; a branch that joins again."""
    net = Net(3, 45, 23)
    x = net.conv(net.x, 5, (5, 3), pads=[2, 1, 2, 1], strides=[2, 1])
    x = net.unary(net.conv(x, 7, (3, 3), dilations=[2, 1], pads=[2, 1, 2, 1]), "HardSwish")
    y = net.conv(net.conv(x, 7, group=7, pads=AROUND), 7, (1, 1))
    x = net.mul(net.add(x, y), net.conv(x, 7, (3, 3), pads=AROUND))
    x = net.same(x, "MaxPool", kernel_shape=[3, 2], strides=[2, 2], pads=[1, 0, 1, 0])
    x = net.average(x, kernel_shape=[3, 3], pads=AROUND, count_include_pad=1)
    x = net.conv(net.average(x, kernel_shape=[2, 2], strides=[1, 2]), 6, (4, 4), pads=[3, 0, 3, 1], group=1)
    return net.model(net.conv(net.average(x, "GlobalAveragePool"), 4, (1, 1)))


def in_place(compiled: Compiled) -> Compiled:
    """The same program, fed through its own place for the input, which outputs may be written over."""
    name = f"{compiled.name}.c"
    text = (
        compiled.files[name]
        .replace("int model_run(", "int run_in_arena(")
        .replace('#include "model.h"', '#include "model.h"\nint run_in_arena(const int8_t *input, int8_t *output);')
    )
    text += (
        "int model_run(const int8_t *input, int8_t *output)\n"
        "{ memcpy(model_input(), input, MODEL_INPUT_SIZE); return run_in_arena(model_input(), output); }\n"
    )
    return replace(compiled, files=compiled.files | {name: text})


def arena(compiled: Compiled) -> int:
    return max(plan.size for plan in compiled.arena.plans.values())


def striped(compiled: Compiled) -> Striped | None:
    op = compiled.calls[0].op
    return op if isinstance(op, Striped) else None


def differing(model: Model, compiled: Compiled, folder: Path, count: int = 2) -> int:
    """Outputs on the host that differ from onnxruntime's, with the input outside of the arena and inside."""
    reference = Reference(model, compiled.program)
    inputs = reference.noise(count, seed=4)
    expected = reference.run(inputs)
    programs = (compiled, in_place(compiled))
    return sum(int((run_on_host(own, inputs, folder, flags=("-O0",)) != expected).sum()) for own in programs)


@needs_host
@pytest.mark.parametrize("make", [mobilenet, mixed])
def test_stripes_give_the_same_integers_in_less_memory(make: Callable[[], Model], tmp_path: Path) -> None:
    model = make()
    whole, least = compile_model(model), compile_model(model, ram_limit=LEAST)
    assert striped(least) is not None
    assert arena(least) < 0.8 * arena(whole)
    assert differing(model, least, tmp_path) == 0


@needs_cores
@pytest.mark.parametrize("core", ["cortex-m4", "cortex-m55"])
@pytest.mark.parametrize("make", [mobilenet, mixed])
def test_stripes_on_a_core(make: Callable[[], Model], core: str, tmp_path: Path) -> None:
    model = make()
    compiled = compile_model(model, ram_limit=LEAST)
    reference = Reference(model, compiled.program)
    inputs = reference.noise(2, seed=5)
    assert (run_on_core(compiled, inputs, core, tmp_path).outputs == reference.run(inputs)).all()


def test_an_export_meets_the_tiers_limit_by_stripes_or_says_what_takes_most() -> None:
    model, tier = mixed(), load_tier("mcu")
    limit = arena(compile_model(model, ram_limit=LEAST))
    for allowed, text in ((None, ""), (limit, " stripes:")):
        made = Export().apply(model, Context(tier=tier.model_copy(update={"max_peak_ram_bytes": allowed})))
        assert text in made.files["model.c"]
        assert allowed is None or max(made.facts["c_code"]["arena_bytes"].values()) <= allowed
        assert (made.facts["c_code"]["recomputed_macs"] > 0) == (allowed is not None)
    with pytest.raises(StageFailed, match=r"over the limit of .*; most is in use at .* in \d+ stripes"):
        Export().apply(model, Context(tier=tier.model_copy(update={"max_peak_ram_bytes": limit - 8})))


def test_without_c_code_whole_tensors_have_to_fit() -> None:
    net = Net(3, 16, 16)
    sizes = net.constant(np.float32([1, 1, 2, 2]))
    x = net.same(net.conv(net.x, 4), "Resize", "", sizes, mode="linear")  # the C code has no kernel for it
    tier = load_tier("mcu").model_copy(update={"max_peak_ram_bytes": 1000})
    with pytest.raises(StageFailed, match=r"activations take .* over the limit of 1 KB"):
        Export().apply(net.model(x), Context(tier=tier))


def test_what_fits_has_no_stripes() -> None:
    whole = compile_model(mixed())
    assert compile_model(mixed(), ram_limit=arena(whole)).files == whole.files


def test_a_limit_is_met_with_as_few_rows_computed_twice_as_it_takes() -> None:
    model = mobilenet()
    whole, least = arena(compile_model(model)), arena(compile_model(model, ram_limit=LEAST))
    limits = [whole - 1, (whole + least) // 2, least]
    found = [compile_model(model, ram_limit=limit) for limit in limits]
    assert all(arena(own) <= limit for own, limit in zip(found, limits, strict=True))
    costs = [own.recomputed for own in map(striped, found) if own is not None]
    assert len(costs) == len(limits)
    assert 0 <= costs[0] < costs[1] < costs[2] < 0.2 * found[0].program.macs


def test_macs_of_a_program_are_those_of_one_without_stripes() -> None:
    model = mixed()
    assert compile_model(model, ram_limit=LEAST).program.macs == compile_model(model).program.macs


def test_only_what_nobody_reads_later_runs_by_stripes() -> None:
    net = Net(3, 24, 24)
    x = net.conv(net.conv(net.x, 4, pads=AROUND), 4, pads=AROUND)
    y = net.conv(net.conv(x, 4, pads=AROUND), 4, pads=AROUND)  # x is read again after it
    program = read_program(net.model(net.average(net.add(x, y), "GlobalAveragePool")))
    assert stripe_ends(program) == [2, 5]


def test_a_stripe_makes_its_rows_from_those_it_needs() -> None:
    net = Net(1, 16, 8)
    x = net.conv(net.conv(net.x, 2, pads=AROUND), 2, pads=AROUND)
    found = stripe(read_program(net.model(net.same(x, "Flatten"))), 2, 4)
    first, second = (piece.op for piece in found.stripes[1])
    assert [piece.writes for pieces in found.stripes for piece in pieces] == [0, 0, 0, 64, 0, 128, 0, 192]
    assert (first.image.height, first.made.height, second.image.height, second.made.height) == (8, 6, 6, 4)
    assert (first.window.pads, second.window.pads) == ((0, 1), (0, 1))
    assert found.stripes[1][0].reads == (2 * 8,)  # rows 4 to 7 take 3 to 8, these 2 to 9
    assert found.recomputed == 6 * 8 * 2 * 9  # two rows of the first layer on each of three borders


@st.composite
def chains(draw: Any) -> tuple[Net, Tensor]:
    """Convolutions and pools one after the other, of any window."""
    net = Net(
        draw(st.integers(1, 4)), draw(st.integers(9, 40)), draw(st.integers(3, 9)), seed=draw(st.integers(0, 999))
    )
    x = net.x
    for _ in range(draw(st.integers(2, 4))):
        kernel = [draw(st.integers(1, min(4, size))) for size in x.shape[2:]]
        pads = [draw(st.integers(0, size - 1)) for size in kernel * 2]
        window = {"pads": pads, "strides": [draw(st.integers(1, 3)), draw(st.integers(1, 2))]}
        kind = draw(st.sampled_from(["conv", "depthwise", "pool", "table"]))
        if kind == "conv":
            made = net.conv(x, draw(st.integers(1, 7)), tuple(kernel), **window)
        elif kind == "depthwise":
            made = net.conv(x, x.shape[1], tuple(kernel), group=x.shape[1], **window)
        elif kind == "pool":
            made = net.same(x, "MaxPool", kernel_shape=kernel, **window)
        else:
            made = net.unary(x, "HardSwish")
        if min(made.shape[2:]) < 2:
            break
        x = made
    return net, net.same(x, "Flatten")


def chain_is_exact(chain: tuple[Net, Tensor], folder: Path) -> None:
    net, output = chain
    model = net.model(output)
    assert differing(model, compile_model(model, ram_limit=LEAST), folder) == 0


@needs_host
@settings(max_examples=6, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(chains())
def test_random_chain_by_stripes_is_exact(tmp_path: Path, chain: tuple[Net, Tensor]) -> None:
    chain_is_exact(chain, tmp_path)


@needs_host
@pytest.mark.slow
@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(chains())
def test_30_random_chains_by_stripes_are_exact(tmp_path: Path, chain: tuple[Net, Tensor]) -> None:
    chain_is_exact(chain, tmp_path)
