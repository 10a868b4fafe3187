"""A data set that a small network learns in a second, and a network whose graph is ONNX from the start.

A folder's conftest.py imports the fixtures it wants.
"""

import math

import numpy as np
import onnx.parser
import pytest
from arrays import Arrays
from onnx import numpy_helper

from edgeopt.data import Data, Split
from edgeopt.errors import StageFailed
from edgeopt.model import Model, Preprocess
from edgeopt.train.objectives import HardLabels

PREPROCESS = Preprocess(size=(6, 6), color="gray", mean=(0.4,), std=(0.3,))


class Leaving(HardLabels):
    """Fails in every process at the given step."""

    def __init__(self, step):
        super().__init__()
        self.left = step

    def forward(self, outputs, x, labels):
        self.left -= 1
        if self.left == 0:
            raise StageFailed("power cut")
        return super().forward(outputs, x, labels)


class Failing(HardLabels):
    """An objective that diverges at once; importable by the processes that a test starts."""

    def forward(self, outputs, x, labels):
        return super().forward(outputs, x, labels) * math.nan


@pytest.fixture
def split() -> Split:
    """192 gray 6 x 6 images of four classes: which quarter is bright, in noise."""
    rng = np.random.default_rng(0)
    labels = np.arange(192) % 4
    images = rng.integers(0, 120, (192, 6, 6, 1)).astype(np.uint8)
    for image, label in zip(images, labels, strict=True):
        top, left = 3 * (label // 2), 3 * (label % 2)
        image[top : top + 3, left : left + 3] += 60
    return Split(Arrays(images), np.arange(192), labels, PREPROCESS)


@pytest.fixture
def data(split: Split) -> Data:
    return Data("quarters", split, split, split, ("a", "b", "c", "d"), PREPROCESS, "fingerprint")


@pytest.fixture
def classifier():
    """Make a Conv, BatchNormalization, Relu, Flatten, Gemm classifier of 6 x 6 gray images."""
    return make_classifier


def make_classifier(width: int = 4, classes: int = 4, softmax: bool = False, seed: int = 0) -> Model:
    last = (
        "logits = Gemm<transB=1>(flat, fc_w, fc_b) output = Softmax<axis=1>(logits)"
        if softmax
        else ("output = Gemm<transB=1>(flat, fc_w, fc_b)")
    )
    proto = onnx.parser.parse_model(f"""
        <ir_version: 10, opset_import: ["": 20]>
        net (float[batch, 1, 6, 6] input) => (float[batch, {classes}] output) {{
            a = Conv<kernel_shape=[3, 3], strides=[3, 3]>(input, conv_w)
            b = BatchNormalization(a, bn_s, bn_b, bn_m, bn_v)
            c = Relu(b)
            flat = Flatten<axis=1>(c)
            {last}
        }}""")
    rng = np.random.default_rng(seed)
    weights = {
        "conv_w": rng.normal(0, 0.4, (width, 1, 3, 3)),
        "bn_s": np.ones(width),
        "bn_b": np.zeros(width),
        "bn_m": np.zeros(width),
        "bn_v": np.ones(width),
        "fc_w": rng.normal(0, 0.3, (classes, 4 * width)),
        "fc_b": np.zeros(classes),
    }
    for name, array in weights.items():
        proto.graph.initializer.append(numpy_helper.from_array(array.astype(np.float32), name))
    return Model.from_proto(proto)
