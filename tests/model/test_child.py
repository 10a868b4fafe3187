"""Native code that crashes, hangs or refuses costs one operation, not the process."""

import time

import onnx
import onnx.parser
import pytest

from edgeopt.errors import StageFailed
from edgeopt.model import Model
from edgeopt.model.child import NativeFailed, check, convert_opset, run_native

OPERATIONS = """
import ctypes, os, time

def segfault(model, settings):
    ctypes.string_at(0)

def abort(model, settings):
    os.abort()

def hang(model, settings):
    time.sleep(60)

def refuse(model, settings):
    raise ValueError("node conv1 has no\\nweight")

def allocate(model, settings):
    return bytes(settings["bytes"])[:1]

def write_nothing(model, settings):
    os._exit(0)

def reverse(model, settings):
    return model[::-1] + settings["tail"].encode()
"""


@pytest.fixture
def operations(tmp_path):
    path = tmp_path / "operations.py"
    path.write_text(OPERATIONS)
    return path


@pytest.fixture
def relu():
    text = '<ir_version: 8, opset_import: ["" : 17]> net (float[n,3] x) => (float[n,3] y) { y = Relu(x) }'
    return Model.from_proto(onnx.parser.parse_model(text))


def test_the_result_and_the_settings_cross_the_process_border(operations):
    assert run_native("reverse", b"abc", settings={"tail": "!"}, source=operations) == b"cba!"


@pytest.mark.parametrize(("operation", "signal"), [("segfault", "SIGSEGV"), ("abort", "SIGABRT")])
def test_a_crash_names_operation_model_and_signal(operations, operation, signal):
    with pytest.raises(NativeFailed) as caught:
        run_native(operation, b"", name="resnet.onnx", source=operations)
    assert caught.value.reason == "crash"
    assert str(caught.value) == f"resnet.onnx: {operation} crashed ({signal})"


def test_a_hang_ends_at_its_time_limit(operations):
    begin = time.monotonic()
    with pytest.raises(NativeFailed, match=r"hang took over 0\.5 s") as caught:
        run_native("hang", b"", seconds=0.5, source=operations)
    assert caught.value.reason == "hang"
    assert time.monotonic() - begin < 5


def test_a_refusal_carries_the_reason_on_one_line(operations):
    with pytest.raises(NativeFailed, match="ValueError: node conv1 has no weight") as caught:
        run_native("refuse", b"", source=operations)
    assert caught.value.reason == "refused"
    assert isinstance(caught.value, StageFailed)


def test_memory_is_bounded(operations):
    pytest.importorskip("resource")
    with pytest.raises(NativeFailed, match="MemoryError"):
        run_native("allocate", b"", settings={"bytes": 64 * 2**30}, source=operations)


def test_a_child_that_ends_without_a_result_is_a_crash(operations):
    with pytest.raises(NativeFailed) as caught:
        run_native("write_nothing", b"", source=operations)
    assert caught.value.reason == "crash"


def test_bytes_that_are_no_model_are_refused_not_fatal():
    with pytest.raises(NativeFailed) as caught:
        run_native("infer_shapes", b"\x0a\xff\xff\xff")
    assert caught.value.reason == "refused"


def test_the_checker_accepts_a_good_graph_and_names_a_bad_one(relu):
    check(relu)
    text = '<ir_version: 8, opset_import: ["" : 17]> net (float[n,3] x) => (float[n,3] y) { y = Reluu(x) }'
    with pytest.raises(NativeFailed, match="Reluu"):
        check(Model.from_proto(onnx.parser.parse_model(text)))


def test_converting_the_opset_keeps_the_metadata(relu):
    named = relu.with_meta(labels=("a", "b", "c"))
    converted = convert_opset(named, 20)
    assert converted.graph.opset_imports[""] == 20
    assert converted.meta == named.meta
    assert relu.graph.opset_imports[""] == 17


def test_a_child_is_up_quickly(relu):
    begin = time.monotonic()
    check(relu)
    assert time.monotonic() - begin < 2  # 0.25 s on an idle core
