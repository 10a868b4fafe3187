"""The rounding rules of the kernels' core, float and integer, against numpy's float32."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="needs a C compiler: apt-get install gcc")

WRAPPER = """
void many(const int32_t *sums, const float *scales, int32_t *results, int32_t count)
{
    for (int32_t i = 0; i < count; i++) results[i] = nearest_scaled(sums[i], scales[i]);
}
"""
LIMIT = 1 << 20


def built(folder: Path, *flags: str) -> ctypes.CDLL:
    core = (files("edgeopt.mcu") / "kernels" / "core.c").read_text()
    source, library = folder / "core.c", folder / "core.so"
    source.write_text("#include <stdint.h>\n" + core + WRAPPER)
    options = ["-std=c99", "-O2", "-shared", "-fPIC", *flags]
    subprocess.run(["gcc", *options, str(source), "-o", str(library)], check=True)
    return ctypes.CDLL(str(library))


def results(library: ctypes.CDLL, sums: np.ndarray, scales: np.ndarray) -> np.ndarray:
    found = np.zeros(sums.size, np.int32)
    library.many(*(array.ctypes.data_as(ctypes.c_void_p) for array in (sums, scales, found)), sums.size)
    return found


def cases() -> tuple[np.ndarray, np.ndarray]:
    """Sums of all magnitudes, scales of most, and products that lie exactly between two integers or just beside."""
    random = np.random.default_rng(0)
    count = 400_000
    sums = (random.choice([-1, 1], count) * 2 ** random.uniform(0, 31, count)).astype(np.int64)
    scales = (2 ** random.uniform(-30, 3, count)).astype(np.float32)
    wanted = random.integers(-300, 300, count) + 0.5
    ties = (wanted / np.where(sums == 0, 1, sums)).astype(np.float32)
    scales = np.where((random.random(count) < 0.5) & (ties > 0), ties, scales)
    halves = np.arange(-(2**12), 2**12)
    sums = np.concatenate([np.clip(sums, -(2**31), 2**31 - 1), halves, [0, 1, -1, -(2**31), 2**31 - 1]])
    scales = np.concatenate([scales, np.full(halves.size, 0.5), np.full(5, 1e-3)])
    return sums.astype(np.int32), scales.astype(np.float32)


@pytest.mark.parametrize("flags", [(), ("-DSOFT_FLOAT",)], ids=["float", "integer"])
def test_rounds_as_float32_does(flags: tuple[str, ...], tmp_path: Path) -> None:
    sums, scales = cases()
    expected = np.rint(sums.astype(np.float32) * scales)
    found = results(built(tmp_path, *flags), sums, scales)
    assert (np.clip(found, -LIMIT, LIMIT) == np.clip(expected, -LIMIT, LIMIT)).all()


def test_ties_are_among_the_cases() -> None:
    sums, scales = cases()
    products = sums.astype(np.float32) * scales
    assert (np.abs(products - np.floor(products)) == 0.5).sum() > 10_000
