"""Small image folders, models and a Progress that remembers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx.parser
import pytest
from PIL import Image

from edgeopt.model import Meta, Model
from edgeopt.progress import Progress

Layout = dict[str, int]


class Recorder(Progress):
    """Keeps the warnings, and counts the steps."""

    def __init__(self) -> None:
        self.warnings: list[str] = []
        self.announced = self.done = 0

    def start(self, label: str, total: int) -> None:
        self.announced += total

    def advance(self, steps: int = 1, metric: str = "") -> None:
        self.done += steps

    def warn(self, message: str) -> None:
        self.warnings.append(message)


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of this test's own."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("EDGEOPT_CACHE", str(folder))
    return folder


@pytest.fixture
def progress() -> Recorder:
    return Recorder()


@pytest.fixture
def make_folder(tmp_path: Path) -> Callable[..., Path]:
    """`make_folder({"train/cat": 4, ...}, size=(h, w))`: that many different images in each folder."""

    def make(layout: Layout, size: tuple[int, int] = (6, 5), ending: str = ".png", root: str = "images") -> Path:
        rng = np.random.default_rng(7)
        for name, count in layout.items():
            folder = tmp_path / root / name
            folder.mkdir(parents=True, exist_ok=True)
            for number in range(count):
                pixels = rng.integers(0, 256, (*size, 3), np.uint8)
                Image.fromarray(pixels).save(folder / f"{number:04}{ending}")
        return tmp_path / root

    return make


@pytest.fixture
def make_model() -> Callable[..., Model]:
    """A classifier with the given input shape (batch aside) and number of outputs."""

    def make(shape: str = "3,4,4", classes: int = 2, meta: Meta | None = None) -> Model:
        text = f"""<ir_version: 9, opset_import: ["" : 20]>
            net (float[batch,{shape}] x) => (float[batch,{classes}] y) {{
                shape = Constant<value_ints = [1, {classes}]>()
                flat = Flatten(x)
                total = ReduceSum<keepdims = 1>(flat)
                y = Expand(total, shape)
            }}"""
        return Model(Model.from_proto(onnx.parser.parse_model(text)).graph, meta or Meta())

    return make
