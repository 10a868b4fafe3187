"""Latencies taken in turns, and the circumstances that go with them."""

import time

import numpy as np
import pytest
from onnx import helper, numpy_helper

from edgeopt.errors import StageFailed
from edgeopt.measure import Latency, environment, time_sessions
from edgeopt.model.runtime import open_session
from edgeopt.report.report import Environment


class Fake:
    """A session that takes a known time and writes down when it was called."""

    def __init__(self, name, calls, seconds=0.001):
        self.name, self.calls, self.seconds = name, calls, seconds
        self.intra_op_num_threads = 3

    def run(self, outputs, feeds):
        self.calls.append(self.name)
        time.sleep(self.seconds)
        return []

    def get_session_options(self):
        return self


def session(size, threads=1):
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "net",
        [helper.make_tensor_value_info("x", 1, [size, size])],
        [helper.make_tensor_value_info("y", 1, None)],
        [numpy_helper.from_array(np.ones((size, size), np.float32), "w")],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return open_session(proto.SerializeToString(), threads=threads)


def test_every_round_times_every_model_once_in_changing_order():
    calls = []
    names = ["a", "b", "c"]
    fakes = {name: Fake(name, calls) for name in names}
    found = time_sessions(fakes, {name: {} for name in names}, rounds=20)
    timed = calls[-60:]  # after the warm-up
    rounds = [timed[start : start + 3] for start in range(0, 60, 3)]
    assert all(sorted(one) == names for one in rounds)
    assert len({tuple(one) for one in rounds}) > 1
    assert found["a"].rounds == 20
    assert found["a"].threads == 3


def test_the_order_is_that_of_the_seed():
    def order(seed):
        calls = []
        fakes = {name: Fake(name, calls) for name in "abc"}
        time_sessions(fakes, {name: {} for name in "abc"}, rounds=10, seed=seed)
        return calls

    assert order(1) == order(1) != order(2)


def test_a_known_time_is_found():
    found = time_sessions({"a": Fake("a", [], 0.004)}, {"a": {}}, rounds=7)["a"]
    assert 4.0 <= found.low_ms <= found.median_ms <= found.high_ms
    assert found.median_ms < 8


def test_a_larger_model_is_slower_and_a_tiny_one_is_timed_in_bulk():
    feeds = {"small": {"x": np.ones((8, 8), np.float32)}, "large": {"x": np.ones((256, 256), np.float32)}}
    found = time_sessions({"small": session(8), "large": session(256)}, feeds, seconds=0.3)
    assert found["large"].median_ms > 2 * found["small"].median_ms
    assert found["small"].threads == 1


def test_the_time_spent_is_about_what_was_asked():
    begin = time.monotonic()
    found = time_sessions({"a": Fake("a", [], 0.002)}, {"a": {}}, seconds=0.2)["a"]
    assert time.monotonic() - begin < 1.0
    assert found.rounds > 7


def test_a_wrong_feed_is_a_stage_failure():
    with pytest.raises(StageFailed):
        time_sessions({"a": session(8)}, {"a": {"x": np.ones((3, 3), np.float32)}})


def test_the_environment_fills_the_report():
    found = Environment(**environment(2))
    assert found.threads == 2
    assert found.cores >= 1
    assert found.cpu
    assert found.onnxruntime.count(".") >= 1
    assert found.provider == "CPUExecutionProvider"


def test_a_ratio_is_taken_round_by_round() -> None:
    quick = Latency(1.0, 1.0, 3.0, 5, 1, (1.0, 1.0, 1.0, 3.0, 1.0))
    slow = Latency(2.0, 2.0, 6.0, 5, 1, (2.0, 2.0, 2.0, 6.0, 2.0))  # the same disturbance in the same round
    assert slow.ratio_to(quick) == (2.0, 2.0)
