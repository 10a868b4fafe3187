"""Memory: predicted before, held under a limit; the prediction grows with batch, activations and weights alone."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from heard import Heard

from edgeopt.data import Split
from edgeopt.errors import UsageError
from edgeopt.model import Model
from edgeopt.model.layerwise.pile import IN_MEMORY
from edgeopt.quantize import Quantize, memory
from edgeopt.quantize.memory import MemoryPlan, least_pieces, plan_memory, plan_pieces, predict_memory
from edgeopt.quantize.reconstruct import Reconstruct
from edgeopt.quantize.samples import Samples
from edgeopt.tiers import load_tier

MB = 1_000_000


class Zeros:
    def __len__(self) -> int:
        return 1000

    def read(self, indices: np.ndarray) -> np.ndarray:
        return np.zeros((len(indices), 3, 16, 16), np.float32)


@pytest.fixture
def model(new_net: Callable[..., Any]) -> Model:
    net = new_net(size=16)
    x = net.add("Relu", net.conv("x", 3, 256))
    for _ in range(3):
        x = net.add("Relu", net.conv(x, 256, 256, 1))
    return net.model(net.head(x, 256))


@pytest.fixture
def plan(model: Model, monkeypatch: pytest.MonkeyPatch) -> Callable[..., MemoryPlan]:
    monkeypatch.setattr(memory, "rss_bytes", lambda: 200 * MB)
    monkeypatch.setattr(memory, "peak_rss_bytes", lambda: 210 * MB)
    monkeypatch.setattr("edgeopt.quantize.observe.cpu_count", lambda: 4)
    samples = Samples(Split(Zeros(), np.arange(1000), None, None), ("x",))
    return lambda **settings: plan_memory(model, tensors(model), samples, counts=True, **settings)


def tensors(model: Model) -> list[str]:
    return [v.name or "" for node in model.graph.graph for v in node.outputs]


def test_each_further_image_costs_its_live_activations_and_its_input(model: Model) -> None:
    one, two, five = (predict_memory(model, tensors(model), size, counts=False) for size in (1, 2, 5))
    live = 2 * 256 * 16 * 16 * 4  # a layer reads one such tensor and writes another
    inputs = 3 * 16 * 16 * 4
    assert two - one == pytest.approx(memory.RUN_FACTOR * live + (1 + memory.READ_AHEAD) * inputs, rel=0.02)
    assert five - one == pytest.approx(4 * (two - one), abs=4)


def test_without_a_limit_the_wish_stands(plan: Callable[..., MemoryPlan]) -> None:
    assert plan(batch_size=64).batch_size == 64
    assert plan(batch_size=64).workers == 4


def test_a_limit_takes_workers_first_and_images_next(model: Model, plan: Callable[..., MemoryPlan]) -> None:
    free = plan(batch_size=64)
    tighter = plan(batch_size=64, max_memory=free.predicted_bytes - MB)
    assert (tighter.batch_size, tighter.workers) == (64, 3)
    alone = 200 * MB + predict_memory(model, tensors(model), 64, workers=1)
    smaller = plan(batch_size=64, max_memory=alone - MB)
    assert (smaller.batch_size, smaller.workers) == (32, 1)
    assert smaller.predicted_bytes <= alone - MB
    assert plan(batch_size=64, max_memory=smaller.predicted_bytes) == smaller


def test_a_limit_below_one_sample_names_what_would_do(model: Model, plan: Callable[..., MemoryPlan]) -> None:
    least = 200 * MB + predict_memory(model, tensors(model), 1)
    with pytest.raises(UsageError, match="one sample at a time takes") as caught:
        plan(max_memory=least - MB)
    assert f"allow at least {least / MB:.0f}" in str(caught.value).replace(",", "")
    assert plan(max_memory=least).batch_size == 1


MEASURE = """
import sys
import numpy as np
from edgeopt.data import Split
from edgeopt.model.load import read_onnx
from edgeopt.quantize.memory import peak_rss_bytes, plan_memory
from edgeopt.quantize.observe import observe
from edgeopt.quantize.samples import Samples
from pathlib import Path
import onnxruntime

class Noise:
    def __len__(self): return 4096
    def read(self, indices):
        return np.random.default_rng(0).standard_normal((len(indices), 3, 96, 96), dtype=np.float32)

model = read_onnx(Path(sys.argv[1]))
tensors = [v.name for node in model.graph.graph for v in node.outputs]
samples = Samples(Split(Noise(), np.arange(int(sys.argv[2])), None, None), ("x",))
plan = plan_memory(model, tensors, samples, counts=True, batch_size=8)
observe(model, tensors, samples.batches(plan.batch_size), counts=True, total=len(samples), workers=plan.workers)
print(plan.predicted_bytes, peak_rss_bytes())
"""


@pytest.mark.slow
def test_the_prediction_holds_and_images_do_not_count(new_net: Callable[..., Any], tmp_path: Path) -> None:
    net = new_net(size=96)
    x = net.add("Relu", net.conv("x", 3, 32))
    for _ in range(6):
        x = net.add("Relu", net.conv(x, 32, 32, 1))
    (tmp_path / "net.onnx").write_bytes(net.model(net.head(x, 32)).to_bytes())
    found = []
    for images in (64, 256):
        command = [sys.executable, "-c", MEASURE, str(tmp_path / "net.onnx"), str(images)]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        found.append([int(number) for number in said.split()])
    for predicted, peak in found:
        assert peak < 1.25 * predicted
        assert peak > 0.6 * predicted
    assert found[1][1] < 1.1 * found[0][1]


class TestLayerByLayer:
    def test_a_small_room_takes_images_and_what_waits_in_memory(self, model: Model) -> None:
        samples = Samples(Split(Zeros(), np.arange(1000), None, None), ("x",))
        free = plan_pieces(model, samples, 8)
        tight = plan_pieces(model, samples, 8, 60 * MB)
        assert (free.batch_size, free.in_memory) == (8, IN_MEMORY)
        assert tight.batch_size < 8
        assert tight.in_memory < IN_MEMORY
        assert tight.predicted_bytes <= 60 * MB < free.predicted_bytes
        least = least_pieces(model, samples)
        assert plan_pieces(model, samples, 8, least).predicted_bytes <= least

    def test_what_does_not_fit_is_left_out_with_a_warning(
        self,
        mobilenet_model: Model,
        make_images: Callable[..., Any],
        make_context: Callable[..., Any],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        heard, limit = Heard(), 900 * MB
        monkeypatch.setattr(memory, "rss_bytes", lambda: limit - 40 * MB)  # enough to observe so small a network
        monkeypatch.setattr(memory, "PIECES_FACTOR", 1e6)
        settings = {"preset": "balanced", "speed": "integers", "max_memory": limit}
        context = make_context(make_images(80), progress=heard)
        result = Quantize(**settings).apply(mobilenet_model, context)
        assert len(heard.warnings) == 1
        assert "bias_correction is left out: it takes" in heard.warnings[0]
        assert "over the limit of" in heard.warnings[0]
        assert "bias_correction" not in result.facts
        monkeypatch.undo()
        without = Quantize(preset="balanced", speed="integers", refinements=[]).apply(mobilenet_model, context)
        assert result.model.fingerprint() == without.model.fingerprint()

    def test_layers_whose_fit_would_not_go_in_keep_what_they_had(
        self, mobilenet_model: Model, make_images: Callable[..., Any], make_context: Callable[..., Any]
    ) -> None:
        settings = {"preset": "fast", "speed": "integers"}
        context = make_context(make_images(48))
        builder, samples, _ = Quantize(**settings).learn(mobilenet_model, load_tier("any"), context)
        built = builder.build()
        found = Reconstruct().refine(builder.model, built, samples, context, room=1)
        assert set(found.facts["layers_left"].values()) == {"its fit takes more memory than is allowed"}
        assert found.facts["layers_changed"] == 0


HELD = """
import resource
import sys
import numpy as np
from pathlib import Path
from edgeopt.data import Data, Split
from edgeopt.model.load import read_onnx
from edgeopt.quantize import Quantize
from edgeopt.quantize.memory import peak_rss_bytes, rss_bytes
from edgeopt.stage import Context
import onnxruntime

class Noise:
    def __len__(self): return 64
    def read(self, indices):
        return np.random.default_rng(0).standard_normal((len(indices), 3, 96, 96), dtype=np.float32)

split = Split(Noise(), np.arange(64), None, None)
context = Context(data=Data("noise", split, split, split, (), None, ""))
room = int(sys.argv[3]) or None
limit = room and rss_bytes() + room
model = read_onnx(Path(sys.argv[1]))
result = Quantize(preset=sys.argv[2], speed="integers", samples=64, max_memory=limit).apply(model, context)
print(sum(kind in result.facts for kind in ("bias_correction", "reconstruct")), limit or 0, peak_rss_bytes())
"""


@pytest.mark.slow
@pytest.mark.parametrize(("preset", "room"), [("balanced", 260), ("best", 210)])
def test_refinements_stay_under_the_limit_and_run(
    preset: str, room: int, new_net: Callable[..., Any], tmp_path: Path
) -> None:
    net = new_net(size=96)
    x = net.add("Relu", net.conv("x", 3, 64))
    for _ in range(4):
        x = net.add("Relu", net.conv(x, 64, 64, 1))
    (tmp_path / "net.onnx").write_bytes(net.model(net.head(x, 64)).to_bytes())

    def measure(allowed: int) -> list[int]:
        command = [sys.executable, "-c", HELD, str(tmp_path / "net.onnx"), preset, str(allowed)]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        return [int(number) for number in said.split()]

    refined, limit, peak = measure(room * MB)
    assert (refined, peak <= limit) == (1, True)
    assert measure(0)[2] > limit, "a limit that nothing reaches would show nothing"
