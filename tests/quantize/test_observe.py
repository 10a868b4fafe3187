"""One streaming pass: the same statistics whatever the batches, in the memory of one batch."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx.parser
import onnx.shape_inference
import onnx_ir as ir
import onnxruntime as ort
import pytest

from edgeopt.errors import StageFailed
from edgeopt.machine import cpu_count
from edgeopt.model import Model
from edgeopt.model.load import tidy
from edgeopt.model.providers import CUDA, choose_providers
from edgeopt.model.runtime import open_session, run
from edgeopt.progress import Progress
from edgeopt.quantize.observe import SAMPLED, Observation, observe, suggest_batch, workers_for

Images = Callable[..., np.ndarray]


class Warnings(Progress):
    def __init__(self) -> None:
        self.found: list[str] = []

    def warn(self, message: str) -> None:
        self.found.append(message)


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


def test_what_is_not_finite_on_the_way_is_noted_where_the_outputs_are(
    new_net: Callable[..., Any], make_images: Images
) -> None:
    net = new_net()
    x = net.conv("x", 3, 4)
    broken = net.add("Log", net.add("Relu", x))  # -inf where x is not positive
    model = net.model(net.add("Add", net.add("Sigmoid", broken), x))
    seen = observe(model, ["x", *computed(model)], [make_images(4), make_images(4, seed=2)], counts=True)
    assert list(seen.not_finite) == ["log_2_out"]
    assert seen.images == 8


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


def test_any_number_of_workers_sees_the_same(resnet_model: Model, make_images: Images) -> None:
    x = make_images(11)
    seen = [
        observe(resnet_model, computed(resnet_model), [x[:4], x[4:8], x[8:]], counts=True, workers=workers)
        for workers in (1, 3)
    ]
    for tensor, histogram in seen[0].histograms.items():
        other = seen[1].histograms[tensor]
        np.testing.assert_array_equal(histogram.counts, other.counts)
        assert (histogram.low, histogram.average_high) == (other.low, other.average_high)


def test_averages_are_of_images_whatever_the_batches(resnet_model: Model, make_images: Images) -> None:
    x = make_images(9)
    x[4] *= 10
    tensor = computed(resnet_model)[3]
    highs = values_of(resnet_model, tensor, x).reshape(9, -1).max(axis=1)
    for size in (1, 4, 9):
        histogram = observe_by(resnet_model, x, size).histograms[tensor]
        assert histogram.images == 9
        assert histogram.average_high == pytest.approx(highs.mean(), rel=1e-4)


def test_dynamic_sizes_are_sampled_as_fixed_ones(new_net: Callable[..., Any], make_images: Images) -> None:
    net, fixed = new_net(size=96), new_net(size=96)
    net.shape[2:] = ["height", "width"]
    x = make_images(4, (3, 96, 96))
    seen = [
        observe(each.model(each.conv("x", 3, 16, 1)), ["conv_0_out"], [x[:3], x[3:]], counts=True)
        for each in (net, fixed)
    ]
    open_, closed = (one.histograms["conv_0_out"] for one in seen)
    assert open_.total == closed.total <= 4 * SAMPLED
    np.testing.assert_array_equal(open_.counts, closed.counts)


def test_sizes_may_differ_from_batch_to_batch(new_net: Callable[..., Any], make_images: Images) -> None:
    net = new_net()
    net.shape[2:] = ["height", "width"]
    model = net.model(net.conv("x", 3, 4, 1))
    small, large = make_images(2, (3, 16, 16)), make_images(3, (3, 48, 24))
    seen = observe(model, ["conv_0_out"], [small, large], counts=True)
    highest = max(values_of(model, "conv_0_out", x).max() for x in (small, large))
    assert seen.histograms["conv_0_out"].high == pytest.approx(highest, rel=1e-5)
    assert seen.images == 5


@pytest.mark.parametrize("opset", [13, 17, 18, 21])
def test_several_inputs_of_integers(opset: int) -> None:
    proto = onnx.parser.parse_model(f"""<ir_version: 8, opset_import: ["" : {opset}]>
        net (int64[batch,length] ids, bool[batch,length] mask) => (float[length,batch,2] y)
        <float[3,2] table = {{0, 1, 2, 3, -4, 5}}> {{
            words = Gather(table, ids)
            seen = Cast<to = 1>(mask)
            axes = Constant<value_ints = [2]>()
            wide = Unsqueeze(seen, axes)
            kept = Mul(words, wide)
            y = Transpose<perm = [1, 0, 2]>(kept)
        }}""")
    model = tidy(Model.from_proto(onnx.shape_inference.infer_shapes(proto)))
    ids = np.array([[0, 1, 2, 2], [1, 1, 0, 0], [2, 0, 0, 0]])
    feeds = {"ids": ids, "mask": ids != 2}
    batches = [{name: array[part] for name, array in feeds.items()} for part in (slice(2), slice(2, 3))]
    seen = observe(model, ["words", "kept", "y"], batches, counts=True)
    assert (seen.histograms["words"].low, seen.histograms["words"].high) == (-4, 5)
    assert (seen.histograms["kept"].low, seen.histograms["kept"].high) == (0, 3)
    assert seen.histograms["kept"].total == seen.histograms["y"].total == 3 * 4 * 2
    # of images where they come first; where they do not, of all that run together
    assert seen.histograms["words"].average_high == pytest.approx((5 + 3 + 5) / 3)
    assert seen.histograms["y"].images == 3


@pytest.mark.parametrize(
    ("device", "available", "chosen", "warned"),
    [
        ("auto", ["CUDAExecutionProvider", "CPUExecutionProvider"], "CUDAExecutionProvider", 0),
        ("auto", ["AzureExecutionProvider", "CPUExecutionProvider"], "CPUExecutionProvider", 0),
        ("cpu", ["CUDAExecutionProvider", "CPUExecutionProvider"], "CPUExecutionProvider", 0),
        ("cuda", ["CUDAExecutionProvider", "CPUExecutionProvider"], "CUDAExecutionProvider", 0),
        ("cuda", ["CPUExecutionProvider"], "CPUExecutionProvider", 1),
    ],
)
def test_a_gpu_is_used_where_there_is_one(device: Any, available: list[str], chosen: str, warned: int) -> None:
    progress = Warnings()
    providers = choose_providers(device, progress, available)
    assert providers[0] == chosen
    assert providers[-1] == "CPUExecutionProvider"
    assert len(progress.found) == warned
    assert (workers_for(providers) == 1) == (chosen != "CPUExecutionProvider" or cpu_count() == 1)


def test_a_gpu_that_cannot_be_used_is_said(resnet_model: Model, make_images: Images) -> None:
    if "CUDAExecutionProvider" in ort.get_available_providers():
        pytest.skip("there is one")
    progress, x = Warnings(), make_images(2)
    with pytest.warns(UserWarning, match="not in available provider names"):
        seen = observe(resnet_model, ["relu_1_out"], [x], counts=False, providers=CUDA, progress=progress)
    assert "observing on the CPU" in progress.found[0]
    assert seen.images == 2


def test_activations_are_freed_as_in_plain_inference(new_net: Callable[..., Any]) -> None:
    """In a deep chain, with every tensor observed, what lives at one moment is a few tensors and not all of them."""
    net = new_net(size=256)
    x = net.conv("x", 3, 16)
    for _ in range(30):
        x = net.add("Relu", net.conv(x, 16, 16, 1))
    model = net.model(x)
    code = (
        "import sys, numpy as np\n"
        "from edgeopt.model.model import Model\n"
        "from edgeopt.model.load import read_onnx\n"
        "from edgeopt.quantize.memory import peak_rss_bytes\n"
        "from edgeopt.quantize.observe import observe\n"
        "from pathlib import Path\n"
        "import onnxruntime\n"
        "model = read_onnx(Path(sys.argv[1]))\n"
        "names = [v.name for node in model.graph.graph for v in node.outputs]\n"
        "x = np.zeros((1, 3, 256, 256), np.float32)\n"
        "before = peak_rss_bytes()\n"
        "observe(model, names, [x, x], counts=False, workers=1)\n"
        "print(peak_rss_bytes() - before)\n"
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "net.onnx")
        path.write_bytes(model.to_bytes())
        command = [sys.executable, "-c", code, str(path)]
        grown = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    every_tensor = 61 * 16 * 256 * 256 * 4
    assert grown < 0.4 * every_tensor
