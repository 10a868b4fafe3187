"""The verification ladder: host, then each core in the emulator; not one output that differs from onnxruntime's."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from mcu_graphs import resnet8

from edgeopt.data import load_data
from edgeopt.data.spec import DataSpec
from edgeopt.mcu.build import run_on_core, run_on_host
from edgeopt.mcu.compile import Compiled, compile_model
from edgeopt.mcu.reference import Reference
from edgeopt.model import Model
from edgeopt.model.load import read_onnx
from edgeopt.progress import Progress

DIGITS = Path(__file__).parents[2] / "models" / "digits" / "mcu" / "model.onnx"
CORES = ["cortex-m4", "cortex-m7", "cortex-m55"]
SAMPLES = 64
"""On each core. ResNet8 takes 7 s on an M4 or M7 and 21 s on an M55, the digits network 3 s."""

needs_host = pytest.mark.skipif(
    not any(map(shutil.which, ("gcc", "cc", "clang"))), reason="needs a C compiler: apt-get install gcc"
)
needs_cores = pytest.mark.skipif(
    not all(map(shutil.which, ("arm-none-eabi-gcc", "qemu-system-arm"))),
    reason="needs apt-get install gcc-arm-none-eabi libnewlib-arm-none-eabi qemu-system-arm",
)


class Rung:
    """A model's program, inputs for it (int8 [count, size]) and onnxruntime's outputs."""

    def __init__(self, model: Model, images: np.ndarray | None = None) -> None:
        self.compiled: Compiled = compile_model(model)
        reference = Reference(model, self.compiled.program)
        self.inputs = reference.noise(SAMPLES, seed=6) if images is None else reference.quantize(images)
        self.expected = reference.run(self.inputs)

    def differing_on_core(self, core: str, folder: Path) -> int:
        found = run_on_core(self.compiled, self.inputs[:SAMPLES], core, folder).outputs
        assert found.shape == self.expected[:SAMPLES].shape
        return int((found != self.expected[:SAMPLES]).sum())

    def differing_on_host(self, folder: Path) -> int:
        found = run_on_host(self.compiled, self.inputs, folder)
        assert found.shape == self.expected.shape
        return int((found != self.expected).sum())


@pytest.fixture(scope="module")
def digits() -> Rung:
    model = read_onnx(DIGITS)
    test = load_data(DataSpec(source="digits"), model=model, seed=0, progress=Progress()).test
    return Rung(model, test.read(np.arange(len(test))).x)


@pytest.fixture(scope="module")
def residual() -> Rung:
    return Rung(resnet8())


@needs_host
def test_digits_on_the_host(digits: Rung, tmp_path: Path) -> None:
    assert len(digits.inputs) == 360
    assert len(np.unique(digits.expected, axis=0)) > 300  # not one answer to everything
    assert digits.differing_on_host(tmp_path) == 0


@needs_cores
@pytest.mark.parametrize("core", CORES)
def test_digits_on_a_core(digits: Rung, core: str, tmp_path: Path) -> None:
    assert digits.differing_on_core(core, tmp_path) == 0


@needs_host
def test_resnet8_on_the_host(residual: Rung, tmp_path: Path) -> None:
    assert residual.differing_on_host(tmp_path) == 0


@needs_cores
@pytest.mark.slow
@pytest.mark.parametrize("core", CORES)
def test_resnet8_on_a_core(residual: Rung, core: str, tmp_path: Path) -> None:
    assert residual.differing_on_core(core, tmp_path) == 0
