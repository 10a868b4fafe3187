"""Pairs of networks, and a data set that they learn in a second."""

import numpy as np
import onnx.parser
import pytest
from onnx import numpy_helper
from quarters import classifier, data, split

from edgeopt.model import Model

__all__ = ["classifier", "data", "split"]


@pytest.fixture
def deep():
    """Make a network of 6 x 6 gray images with activations at 6 x 6 and 3 x 3, and a linear tensor after the last."""
    return make_deep


@pytest.fixture
def two_headed():
    """Make a network with a head of scores [n, 3, 3, 3] and a head of positions [n, 2], a hundred times larger."""
    return make_two_headed


@pytest.fixture
def given():
    """`given(stage, *teachers)`: the stage, with the models themselves for teachers."""
    return with_models


def with_models(stage, *teachers):
    class Known(type(stage.teachers[0])):
        def load(self, seed=0):
            return teachers[int(self.source)]

    references = tuple(Known(source=str(number)) for number in range(len(teachers)))
    return stage.model_copy(update={"teacher": references})


def make_deep(width: int = 4, seed: int = 0) -> Model:
    text = """
        net (float[batch, 1, 6, 6] input) => (float[batch, 4] output) {
            a = Conv<pads=[1, 1, 1, 1]>(input, a_w)
            a_n = BatchNormalization(a, n_s, n_b, n_m, n_v)
            a_r = Relu(a_n)
            b = Conv<pads=[1, 1, 1, 1], strides=[2, 2]>(a_r, b_w)
            b_r = Relu(b)
            c = Conv(b_r, c_w)
            flat = Flatten<axis=1>(c)
            output = Gemm<transB=1>(flat, fc_w, fc_b)
        }"""
    rng = np.random.default_rng(seed)
    weights = {
        "a_w": rng.normal(0, 0.3, (width, 1, 3, 3)),
        "n_s": np.ones(width),
        "n_b": np.zeros(width),
        "n_m": np.zeros(width),
        "n_v": np.ones(width),
        "b_w": rng.normal(0, 0.2, (2 * width, width, 3, 3)),
        "c_w": rng.normal(0, 0.4, (2 * width, 2 * width, 1, 1)),
        "fc_w": rng.normal(0, 0.1, (4, 18 * width)),
        "fc_b": np.zeros(4),
    }
    return _model(text, weights)


def make_two_headed(width: int = 4, seed: int = 0) -> Model:
    text = """
        net (float[batch, 1, 6, 6] input) => (float[batch, 3, 3, 3] scores, float[batch, 2] place) {
            a = Conv<pads=[1, 1, 1, 1], strides=[2, 2]>(input, a_w)
            b = Relu(a)
            scores = Conv(b, s_w)
            flat = Flatten<axis=1>(b)
            place = Gemm<transB=1>(flat, p_w, p_b)
        }"""
    rng = np.random.default_rng(seed)
    weights = {
        "a_w": rng.normal(0, 0.4, (width, 1, 3, 3)),
        "s_w": rng.normal(0, 0.05, (3, width, 1, 1)),
        "p_w": rng.normal(0, 1.0, (2, 9 * width)),
        "p_b": np.zeros(2),
    }
    return _model(text, weights)


def _model(text: str, weights: dict[str, np.ndarray]) -> Model:
    proto = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 20]>{text}')
    for name, array in weights.items():
        proto.graph.initializer.append(numpy_helper.from_array(array.astype(np.float32), name))
    return Model.from_proto(proto)
