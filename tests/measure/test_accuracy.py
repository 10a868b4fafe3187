"""One pass over the images for all models, with the answers of the plain loop."""

import math

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeopt.data import Split
from edgeopt.errors import StageFailed
from edgeopt.measure import evaluate
from edgeopt.model.runtime import open_session
from edgeopt.progress import Progress

RNG = np.random.default_rng(0)
X = RNG.normal(size=(70, 4)).astype(np.float32)
W = RNG.normal(size=(4, 3)).astype(np.float32)
W2 = W + 0.3 * RNG.normal(size=W.shape).astype(np.float32)
Y = (X @ W).argmax(axis=1).astype(np.int64)
Y[::10] = (Y[::10] + 1) % 3


class Array:
    def __init__(self, x):
        self.x, self.reads = x, []

    def __len__(self):
        return len(self.x)

    def read(self, indices):
        self.reads += indices.tolist()
        return self.x[indices]


def split(y=Y, source=None):
    return Split(source or Array(X), np.arange(len(X)), y, None)


def session(w=W, batch="n", dtype=TensorProto.FLOAT, extra=()):
    array = w.astype(np.float16 if dtype == TensorProto.FLOAT16 else np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["h"]), *(extra or [helper.make_node("Identity", ["h"], ["y"])])],
        "net",
        [helper.make_tensor_value_info("x", dtype, [batch, 4])],
        [helper.make_tensor_value_info("y", dtype, None)],
        [numpy_helper.from_array(array, "w")],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return open_session(proto.SerializeToString(), threads=1)


def test_the_figures_are_those_of_the_plain_loop():
    found = evaluate({"float": session(), "other": session(W2)}, split(), reference="float", batch_size=16)
    float_outputs, other_outputs = (X @ W).astype(np.float64), (X @ W2).astype(np.float64)
    other = found["other"]
    np.testing.assert_array_equal(other.answers, other_outputs.argmax(axis=1))
    np.testing.assert_array_equal(other.correct, other.answers == Y)
    assert other.samples == 70
    assert found["float"].accuracy == pytest.approx(63 / 70)
    assert other.agreement == np.mean(other_outputs.argmax(axis=1) == float_outputs.argmax(axis=1))
    noise = np.sum((float_outputs - other_outputs) ** 2)
    assert other.sqnr_db == pytest.approx(10 * math.log10(np.sum(float_outputs**2) / noise), rel=1e-4)
    assert found["float"].agreement == 1.0
    assert found["float"].sqnr_db == math.inf


def test_each_image_is_read_once_for_all_models():
    source = Array(X)
    sessions = {"a": session(), "b": session(W2), "c": session()}
    evaluate(sessions, split(source=source), reference="a", batch_size=16)
    assert source.reads == list(range(70))


@pytest.mark.parametrize("batch", [1, 8])
def test_a_fixed_batch_size_changes_nothing(batch):
    found = evaluate({"a": session(), "fixed": session(batch=batch)}, split(), reference="a", batch_size=33)
    np.testing.assert_array_equal(found["fixed"].answers, found["a"].answers)
    assert found["fixed"].sqnr_db > 100


def test_half_precision_inputs_are_cast():
    found = evaluate({"a": session(), "half": session(dtype=TensorProto.FLOAT16)}, split(), reference="a")
    assert found["half"].agreement > 0.95
    assert 40 < found["half"].sqnr_db < 90


def test_without_labels_agreement_stands_in_for_accuracy():
    found = evaluate({"a": session(), "b": session(W2)}, split(y=None), reference="a")
    assert found["b"].correct is None
    assert found["b"].accuracy is None
    assert 0.5 < found["b"].agreement < 1


def test_outputs_that_are_not_finite_name_the_model():
    log = [helper.make_node("Log", ["h"], ["y"])]
    with pytest.raises(StageFailed, match=r"^broken: gives NaN or infinite outputs on \d+ of 64 images"):
        evaluate({"a": session(), "broken": session(extra=log)}, split(), reference="a")


def test_models_of_different_tasks_are_not_compared():
    with pytest.raises(StageFailed, match="wide: gives 5 outputs an image, a gives 3"):
        evaluate({"a": session(), "wide": session(np.ones((4, 5)))}, split(), reference="a")


def test_no_images_is_said_so():
    with pytest.raises(StageFailed, match="no test images"):
        evaluate({"a": session()}, split().take(np.arange(0)), reference="a")


def test_progress_counts_images():
    class Count(Progress):
        total = done = 0

        def start(self, label, total):
            self.total = total

        def advance(self, steps=1, metric=""):
            self.done += steps

    progress = Count()
    evaluate({"a": session()}, split(), reference="a", batch_size=32, progress=progress)
    assert (progress.total, progress.done) == (70, 70)
