"""A graph run piece by piece gives what a plain run gives, and what is put in an earlier place is read later."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from arrays import samples_of

from edgeopt.errors import StageFailed
from edgeopt.model import Model
from edgeopt.model.layerwise import pile as piles
from edgeopt.model.layerwise.pile import Pile, pile_up
from edgeopt.model.layerwise.segments import Segments
from edgeopt.model.runtime import open_session, run
from edgeopt.quantize.build import Builder, wanted_tensors
from edgeopt.quantize.calibrators import MinMax
from edgeopt.quantize.observe import observe
from edgeopt.quantize.weights import MaxScale
from edgeopt.tiers import load_tier

Fixture = Callable[..., Any]


def layers(model: Model) -> list[str]:
    return [node.name or "" for node in model.graph.graph if node.op_type in ("Conv", "Gemm", "Add")]


def outputs_of(model: Model, names: list[str]) -> list[str]:
    nodes = {node.name: node for node in model.graph.graph}
    return [nodes[name].outputs[0].name or "" for name in names]


def quantized(model: Model, x: np.ndarray) -> Model:
    tier = load_tier("any")
    seen = observe(model, wanted_tensors(model, tier), [{"x": x}], counts=False).histograms
    return Builder(model, tier, seen, MinMax(), MaxScale()).build().model


def cut(model: Model, x: np.ndarray, size: int = 8) -> Segments:
    return Segments(model, pile_up(samples_of(x).batches(size)))


def test_a_pile_gives_back_what_it_was_given_from_memory_and_from_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = [
        np.arange(60, dtype=np.float32).reshape(3, 4, 5)[:, ::2],
        np.array(True),
        np.zeros((0, 7), np.int64),
        np.arange(-100, 100, dtype=np.int8).reshape(2, 10, 10).transpose(2, 0, 1),
    ]
    for limit in (piles.IN_MEMORY, 100):
        monkeypatch.setattr(piles, "IN_MEMORY", limit)
        pile = Pile()
        for array in arrays:
            pile.append(array)
        assert len(pile) == 4
        assert pile.nbytes == sum(array.nbytes for array in arrays)
        for index in (2, 0, 3, 1):
            np.testing.assert_array_equal(pile[index], arrays[index], strict=True)


def test_a_full_disk_is_told_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: object, data: object) -> int:
        raise OSError(28, "No space left on device")

    pile = Pile()
    monkeypatch.setattr("edgeopt.model.layerwise.pile.SpooledTemporaryFile.write", full)
    with pytest.raises(StageFailed, match="No space left"):
        pile.append(np.zeros(3))


def test_values_are_the_same_wherever_the_run_starts(resnet_model: Model, make_images: Fixture) -> None:
    segments = cut(quantized(resnet_model, make_images(11)), make_images(11), 4)
    wanted = resnet_model.outputs[0].name
    expected = np.concatenate([batch[wanted] for batch in segments.run([wanted])])
    for name in layers(resnet_model):
        assert segments.advance(name)
        found = np.concatenate([batch[wanted] for batch in segments.run([wanted])])
        np.testing.assert_allclose(found, expected, atol=1e-3)


def test_nothing_moves_where_the_graph_is_too_wide_to_hold(resnet_model: Model, make_images: Fixture) -> None:
    segments = cut(resnet_model, make_images(4))
    first = layers(resnet_model)[0]
    assert not segments.advance(first, 1000)
    output = outputs_of(resnet_model, [first])
    assert [set(values) for values in segments.step(first, output, limit_bytes=1000)] == [set(output)]
    assert segments.held == ["x"]


@pytest.mark.parametrize("network", ["resnet_model", "mobilenet_model"])
@pytest.mark.parametrize("int8", [False, True], ids=["float", "int8"])
def test_each_step_gives_what_the_whole_model_computes(
    network: str, int8: bool, request: pytest.FixtureRequest, make_images: Fixture, measure_sqnr: Fixture
) -> None:
    x = make_images(10)
    model = request.getfixturevalue(network)
    model = quantized(model, x) if int8 else model
    names = layers(model)
    tensors = outputs_of(model, names)
    truth = {name: np.concatenate(parts) for name, parts in gathered(cut(model, x, 10).run(tensors)).items()}
    segments = cut(model, x)
    for name, tensor in zip(names, tensors, strict=True):
        found = gathered(segments.step(name, [tensor], keep=tensor))[tensor]
        assert [len(batch) for batch in found] == [8, 2]
        # a value on the border of two levels may fall either way
        assert measure_sqnr(truth[tensor], np.concatenate(found)) > (40 if int8 else 100)


def gathered(batches: Iterator[dict[str, np.ndarray]]) -> dict[str, list[np.ndarray]]:
    found: dict[str, list[np.ndarray]] = {}
    for values in batches:
        for name, array in values.items():
            found.setdefault(name, []).append(array)
    return found


@pytest.mark.parametrize("int8", [False, True], ids=["float", "int8"])
def test_what_changes_an_output_is_what_later_layers_read(
    int8: bool, resnet_model: Model, make_images: Fixture
) -> None:
    """The first block's second layer is quantized right away: kept, it can still be changed before that."""
    x = make_images(4)
    model = quantized(resnet_model, x) if int8 else resnet_model
    names = layers(model)
    segments = cut(model, x)
    for name, tensor in zip(names[:-1], outputs_of(model, names[:-1]), strict=True):
        for _ in segments.step(name, keep=tensor):
            pass
        segments.change(tensor, np.zeros_like)
    last = gathered(segments.run([model.outputs[0].name]))[model.outputs[0].name][0]
    bias = run(open_session(resnet_model), np.zeros_like(x))[0]
    assert np.ptp(last, axis=0).max() < 1e-6
    assert np.abs(last - bias).max() > 1e-3


def test_only_what_later_layers_read_is_held_and_as_bytes_where_it_can_be(
    mobilenet_model: Model, make_images: Fixture
) -> None:
    model = quantized(mobilenet_model, make_images(4))
    segments = cut(model, make_images(4))
    for name in layers(model)[:-1]:
        segments.advance(name)
        held = next(segments.run(segments.held))
        assert 1 <= len(held) <= 2  # the layer's output, and what it is to be added to
        if model_node(model, name) == "Add":
            assert {array.dtype.kind for array in held.values()} == {"u"}


def model_node(model: Model, name: str) -> str:
    return next(node.op_type for node in model.graph.graph if node.name == name)
