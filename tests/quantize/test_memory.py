"""Memory: predicted before, held under a limit; the prediction grows with batch, activations and weights alone."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeopt.data import Split
from edgeopt.errors import UsageError
from edgeopt.model import Model
from edgeopt.quantize import memory
from edgeopt.quantize.memory import MemoryPlan, plan_memory, predict_memory
from edgeopt.quantize.samples import Samples

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
