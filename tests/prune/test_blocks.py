"""Residual blocks are found on the graph, and losing one is the same as a branch that adds nothing."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import onnx_ir as ir
import pytest

from edgeopt.model import Model
from edgeopt.model.runtime import open_session, run
from edgeopt.prune.blocks import find_blocks, remove_blocks, spread

STEM = "s = Conv<pads=[1,1,1,1]>(x, stem) r0 = Relu(s)"
HEAD = "p = GlobalAveragePool({}) f = Flatten(p) y = Gemm<transB=1>(f, head)"


def block(number: int, source: str) -> str:
    """r<number> = relu(source + conv(relu(conv(source))))."""
    n = number
    return f"""a{n} = Conv<pads=[1,1,1,1]>({source}, one{n}) c{n} = Relu(a{n})
        d{n} = Conv<pads=[1,1,1,1]>(c{n}, two{n}) e{n} = Add(d{n}, {source}) r{n} = Relu(e{n})"""


def weights(blocks: int) -> dict[str, tuple[int, ...]]:
    inner = {f"{place}{n}": (4, 4, 3, 3) for n in range(1, blocks + 1) for place in ("one", "two")}
    return {"stem": (4, 3, 3, 3), "head": (5, 4), **inner}


@pytest.fixture
def network(make: SimpleNamespace) -> Model:
    """Four residual blocks behind a stem."""
    body = " ".join(block(n, f"r{n - 1}") for n in range(1, 5))
    model: Model = make.build(f"{STEM} {body} {HEAD.format('r4')}", weights(4))
    return model


def answers(model: Model) -> np.ndarray:
    x = np.random.default_rng(0).standard_normal((3, 3, 8, 8)).astype(np.float32)
    return np.asarray(run(open_session(model), x)[0])


def test_every_block_is_found(network: Model) -> None:
    assert [(found.x, found.add) for found in find_blocks(network)] == [(f"r{n - 1}", f"e{n}") for n in range(1, 5)]


def test_a_block_that_is_gone_adds_nothing(network: Model) -> None:
    smaller, blocks, removed = remove_blocks(network, 0.5)
    assert len(blocks) == 4
    assert [own.add for own in removed] == ["e2", "e4"]
    silent = network.copy()
    for name in ("two2", "two4"):
        silent.graph.graph.initializers[name].const_value = ir.tensor(np.zeros((4, 4, 3, 3), np.float32), name=name)
    np.testing.assert_array_equal(answers(smaller), answers(silent))
    assert set(smaller.weights()) == {"stem", "head", *weights(3)} - {"one2", "two2"}
    assert [node.op_type for node in smaller.graph.graph].count("Relu") == 5  # no Relu of a Relu's output is left


def test_the_model_itself_stays_as_it_is(network: Model) -> None:
    before = network.fingerprint()
    remove_blocks(network, 0.25)
    assert network.fingerprint() == before


def test_all_blocks_may_stay(network: Model) -> None:
    smaller, _, removed = remove_blocks(network, 1.0)
    assert removed == []
    np.testing.assert_array_equal(answers(smaller), answers(network))


def test_projections_and_leaks_are_no_blocks(make: SimpleNamespace) -> None:
    """A projected shortcut; a branch that is read elsewhere; one that something else enters; a sum without layers."""
    shapes = weights(2) | {"short": (4, 4, 1, 1), "other": (4, 3, 1, 1)}
    projected = make.build(
        f"{STEM} a = Conv<pads=[1,1,1,1]>(r0, one1) b = Conv(r0, short) c = Add(a, b) {HEAD.format('c')}", shapes
    )
    read_twice = make.build(
        f"""{STEM} a = Conv<pads=[1,1,1,1]>(r0, one1) b = Conv<pads=[1,1,1,1]>(a, two1)
            c = Add(r0, b) d = Mul(c, a) {HEAD.format("d")}""",
        shapes,
    )
    entered = make.build(
        f"""{STEM} a = Conv<pads=[1,1,1,1]>(r0, one1) b = Conv(x, other) c = Mul(a, b) d = Add(r0, c)
            {HEAD.format("d")}""",
        shapes,
    )
    plain = make.build(f"{STEM} a = Sigmoid(r0) c = Add(r0, a) {HEAD.format('c')}", shapes)
    for model in (projected, read_twice, entered, plain):
        assert find_blocks(model) == []


@pytest.mark.parametrize(
    ("count", "kept", "numbers"), [(4, 2, [0, 2]), (5, 3, [0, 1, 3]), (10, 5, [0, 2, 4, 6, 8]), (3, 3, [0, 1, 2])]
)
def test_what_stays_is_spread_evenly(count: int, kept: int, numbers: list[int]) -> None:
    assert spread(count, kept) == numbers
