"""One streaming pass: the same statistics whatever the batches, in the memory of one batch."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from edgeopt.errors import StageFailed
from edgeopt.model import Model
from edgeopt.model.runtime import open_session, run
from edgeopt.quantize.observe import SAMPLED, Observation, observe, suggest_batch

Images = Callable[..., np.ndarray]


def computed(model: Model) -> list[str]:
    return [v.name or "" for node in model.graph.graph for v in node.outputs]


def values_of(model: Model, tensor: str, x: np.ndarray) -> np.ndarray:
    exposed = model.copy()
    graph = exposed.graph.graph
    value = next(v for node in graph for v in node.outputs if v.name == tensor)
    if not value.is_graph_output():
        graph.outputs.append(value)
    names = [output.name for output in graph.outputs]
    return run(open_session(exposed), x)[names.index(tensor)]


def observe_by(model: Model, x: np.ndarray, size: int) -> Observation:
    return observe(model, computed(model), (x[i : i + size] for i in range(0, len(x), size)), counts=True)


def test_extremes_are_those_of_all_values(resnet_model: Model, make_images: Images) -> None:
    x = make_images(10)
    seen = observe(resnet_model, computed(resnet_model), [x[:4], x[4:8], x[8:]], counts=False)
    for tensor, histogram in seen.histograms.items():
        values = values_of(resnet_model, tensor, x)
        assert (histogram.low, histogram.high) == (
            pytest.approx(values.min(), abs=1e-5),
            pytest.approx(values.max(), rel=1e-5),
        )
    assert seen.images == 10


def test_ragged_batches_give_what_one_batch_gives(resnet_model: Model, make_images: Images) -> None:
    x = make_images(13)
    whole, ragged = observe_by(resnet_model, x, 13), observe_by(resnet_model, x, 5)
    for tensor, histogram in whole.histograms.items():
        other = ragged.histograms[tensor]
        assert histogram.total == other.total > 0
        assert (histogram.low, histogram.high) == (
            pytest.approx(other.low, rel=1e-4),
            pytest.approx(other.high, rel=1e-4),
        )
        moved = (
            np.abs(histogram.counts - other.counts).sum() / 2
        )  # rounding of another batch size moves a few by one bin
        assert moved <= 0.002 * histogram.total


def test_small_tensors_are_counted_whole(resnet_model: Model, make_images: Images) -> None:
    x = make_images(3)
    seen = observe_by(resnet_model, x, 3)
    tensor = computed(resnet_model)[3]
    values = values_of(resnet_model, tensor, x)
    expected, _ = np.histogram(values[values != 0], seen.histograms[tensor].edges)
    assert np.abs(seen.histograms[tensor].counts - expected).sum() <= 4


def test_large_tensors_are_sampled_in_step_with_no_dim(new_net: Callable[..., Any], make_images: Images) -> None:
    net = new_net(size=96)
    model = net.model(net.conv("x", 3, 16, 1))
    x = make_images(2, (3, 96, 96))
    x[..., ::2] *= 0.1  # a step that divides the width would see every other column only
    histogram = observe_by(model, x, 1).histograms["conv_0_out"]
    assert 0.5 * SAMPLED < histogram.total / 2 <= SAMPLED
    values = values_of(model, "conv_0_out", x)
    counted = np.cumsum(histogram.counts) / histogram.counts.sum()
    expected = np.cumsum(np.histogram(values, histogram.edges)[0]) / values.size
    assert np.abs(counted - expected).max() < 0.02


def test_memory_does_not_grow_with_the_images(resnet_model: Model, make_images: Images) -> None:
    x = make_images(8)

    def peak(batches: int) -> int:
        def stream() -> Iterator[np.ndarray]:
            for _ in range(batches):
                yield x.copy()

        tracemalloc.start()
        observe(resnet_model, computed(resnet_model), stream(), counts=True)
        top = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return top

    few, many = peak(8), peak(64)
    # eight times the images; threads hold a batch more or less at the moment of the peak
    assert many < 1.5 * few


def test_a_fixed_batch_dim_is_fed_in_pieces(new_net: Callable[..., Any], make_images: Images) -> None:
    net = new_net()
    net.shape[0] = 4
    model = net.model(net.conv("x", 3, 4))
    x = make_images(10)
    seen = observe(model, ["conv_0_out"], [x], counts=False)
    dynamic = new_net()
    expected = values_of(dynamic.model(dynamic.conv("x", 3, 4)), "conv_0_out", x)
    assert seen.histograms["conv_0_out"].high == pytest.approx(expected.max(), rel=1e-5)
    assert seen.images == 10


def test_the_first_tensor_that_is_not_finite_is_named(new_net: Callable[..., Any], make_images: Images) -> None:
    net = new_net()
    x = net.conv("x", 3, 4)
    broken = net.add("Log", net.add("Relu", x))
    model = net.model(net.add("Add", broken, x))
    with pytest.raises(StageFailed, match="'log_2_out' holds NaN or infinite"):
        observe(model, ["x", *computed(model)], [make_images(4)], counts=True)


def test_the_suggested_batch_shrinks_with_the_activations(new_net: Callable[..., Any]) -> None:
    sizes = []
    for size in (16, 128, 512):
        net = new_net(size=size)
        model = net.model(net.conv("x", 3, 64))
        sizes.append(suggest_batch(model, computed(model)))
    assert sizes == [32, 16, 1]


def test_the_model_stays_as_it_was(resnet_model: Model, make_images: Images) -> None:
    before = resnet_model.fingerprint()
    observe_by(resnet_model, make_images(2), 2)
    assert resnet_model.fingerprint() == before
    assert isinstance(resnet_model.graph, ir.Model)
