"""Packed weights: fewer bytes, the same graph at run time."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from edgeopt.model.profile import profile
from edgeopt.model.runtime import open_session, run
from edgeopt.quantize.pack import pack_weights
from edgeopt.quantize.weights import quantize_weight


@pytest.fixture
def wide_net(new_net):
    """A pointwise, a depthwise and a grouped convolution, a Gemm: about 100,000 weights."""
    net = new_net(channels=16, size=8)
    y = net.add("Relu", net.conv("x", 16, 256, 1))
    y = net.add("Relu", net.conv(y, 256, 256, group=256))
    y = net.conv(y, 256, 256, 1)
    return net.model(net.head(y, 256, 100))


def weights_of(model):
    return {n.name: n.inputs[1].const_value.numpy() for n in model.graph.graph if n.op_type in ("Conv", "Gemm")}


def outputs(model, seed=0):
    x = np.random.default_rng(seed).standard_normal((2, 16, 8, 8)).astype(np.float32)
    return run(open_session(model, threads=1), x)[0]


def with_weights(model, change):
    """The model with each layer's weight put through `change`."""
    import onnx_ir as ir

    changed = model.copy()
    for node in changed.graph.graph:
        if node.op_type in ("Conv", "Gemm"):
            value = node.inputs[1]
            value.const_value = ir.tensor(change(value.const_value.numpy()), name=value.name)
    return changed


def test_int8_weights_compute_what_their_dequantized_form_does(wide_net):
    packed = pack_weights(wide_net)
    rounded = with_weights(wide_net, lambda w: quantize_weight(w, 0).dequantize())
    assert np.array_equal(outputs(packed), outputs(rounded))
    assert not np.array_equal(outputs(packed), outputs(wide_net))


def test_the_file_shrinks_to_a_quarter(wide_net):
    assert len(pack_weights(wide_net).to_bytes()) < 0.28 * len(wide_net.to_bytes())


def test_nothing_is_left_to_do_at_run_time(wide_net, tmp_path):
    def operators(model):
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
        ort.InferenceSession(model.to_bytes(), options, providers=["CPUExecutionProvider"])
        return [node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node]

    size = len(wide_net.to_bytes())
    assert operators(pack_weights(wide_net)) == operators(wide_net)
    assert operators(pack_weights(wide_net, most_bytes=int(0.4 * size))) == operators(wide_net)


def test_a_limit_is_met_with_as_little_loss_as_will_do(wide_net):
    size = len(wide_net.to_bytes())
    errors = []
    for share in (1.0, 0.8, 0.55, 0.4, 0.3):
        packed = pack_weights(wide_net, most_bytes=int(share * size))
        assert len(packed.to_bytes()) <= share * size
        errors.append(float(np.square(outputs(packed) - outputs(wide_net)).sum()))
    assert errors[0] == 0
    assert errors == sorted(errors)
    assert errors[2] < 0.01 * errors[4]  # float16 sufficed


def test_weights_beyond_float16_are_not_stored_in_it(wide_net):
    large = with_weights(wide_net, lambda w: w * np.float32(1e5))
    packed = pack_weights(large, most_bytes=len(large.to_bytes()) // 2)
    assert np.isfinite(outputs(packed)).all()
    stored = {value.const_value.dtype.name for value in packed.graph.graph.initializers.values()}
    assert "INT8" in stored


def test_only_named_nodes_change_and_the_input_is_left_alone(wide_net):
    before = wide_net.fingerprint()
    name = next(node.name for node in wide_net.graph.graph if node.op_type == "Gemm")
    packed = pack_weights(wide_net, [name])
    assert sum(node.op_type == "Cast" for node in packed.graph.graph) == 1
    assert wide_net.fingerprint() == before


def test_a_weight_that_others_read_too_stays(new_net):
    net = new_net(channels=32, size=8)
    weight = net.weight(32, 32, 1, 1)
    y = net.add("Conv", net.add("Conv", "x", weight), weight)
    shared = net.model(y)
    assert sum(n.op_type == "Cast" for n in pack_weights(shared).graph.graph) == 1
    first = shared.graph.graph[0].name
    assert sum(n.op_type == "Cast" for n in pack_weights(shared, [first]).graph.graph) == 0


def test_a_profile_counts_what_is_stored_and_names_the_layer(wide_net):
    plain, packed = profile(wide_net), profile(pack_weights(wide_net))
    assert packed.params == plain.params
    assert packed.macs == plain.macs
    assert packed.peak_ram_bytes == plain.peak_ram_bytes
    assert packed.file_bytes < 0.28 * plain.file_bytes


def test_to_torch_reads_packed_weights(wide_net):
    import torch

    from edgeopt.model.to_torch import to_torch

    packed = pack_weights(wide_net)
    x = np.random.default_rng(0).standard_normal((2, 16, 8, 8)).astype(np.float32)
    with torch.no_grad():
        found = to_torch(packed).eval()(torch.from_numpy(x))
    assert np.allclose(found.numpy(), outputs(packed), atol=1e-4)


def test_a_packed_model_is_refused_by_work_that_wants_floats_and_layers_keep_their_names(wide_net):
    from edgeopt.export.precision import precision_of
    from edgeopt.model.profile import layer_name
    from edgeopt.model.quantized import is_quantized

    packed = pack_weights(wide_net)
    assert is_quantized(packed)
    assert precision_of(packed) == "int8"
    assert not is_quantized(wide_net)
    named = wide_net.copy()
    weight = named.graph.graph[0].inputs[1]
    weight.name = "stem.weight"
    layer = next(node for node in pack_weights(named).graph.graph if node.op_type == "Conv")
    assert layer_name(layer) == "stem"
