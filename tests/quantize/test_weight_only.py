"""Weight-only int8: a quarter of the bytes, nearly the same answers, the runtime's own kernel."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest

from edgeopt.errors import UsageError
from edgeopt.model import Model
from edgeopt.model.runtime import open_session, run
from edgeopt.progress import Progress
from edgeopt.quantize.verify import fused_operators
from edgeopt.quantize.weight_only import quantize_weights_only
from edgeopt.stage import Context
from edgeopt.tiers import load_tier

Fixture = Callable[..., Any]
ANY = load_tier("any")


def compress(model: Model, **settings: Any) -> Model:
    changed = quantize_weights_only(model, ANY, Context(), **settings).model
    onnx.checker.check_model(changed.to_proto(), full_check=True)
    return changed


def kernels(model: Model) -> Counter[str]:
    return Counter(operator for _, operator in fused_operators(model, {}))


def dense(net: Any, *, transposed: bool = True, **attributes: Any) -> Model:
    """Flatten -> Gemm [192, 256] -> Relu -> MatMul [256, 256]."""
    flat = net.add("Flatten", "x")
    weight = net.weight(256, 192) if transposed else net.weight(192, 256)
    hidden = net.add("Relu", net.add("Gemm", flat, weight, net.bias(256), transB=int(transposed), **attributes))
    return net.model(net.add("MatMul", hidden, net.weight(256, 256)))


@pytest.fixture
def small(new_net: Fixture) -> Any:
    return new_net(channels=3, size=8)


def test_the_weights_are_what_a_scale_for_each_output_makes_of_them(small: Any, make_images: Fixture) -> None:
    model = dense(small)
    found = compress(model).weights()
    weight = model.weights()["constant_0"]  # [outputs, inputs]
    scale = np.abs(weight).max(axis=1) / 127
    np.testing.assert_allclose(found["constant_0_scale"], scale, rtol=1e-6)
    np.testing.assert_array_equal(found["constant_0_quantized"], np.rint(weight / scale[:, None]).T)
    assert found["constant_0_quantized"].dtype == np.int8
    assert "constant_0" not in found


@pytest.mark.parametrize("attributes", [{}, {"alpha": 0.5, "beta": 2.0}])
@pytest.mark.parametrize("transposed", [True, False])
def test_onnxruntime_runs_its_8_bit_kernel(
    transposed: bool, attributes: dict[str, float], small: Any, make_images: Fixture, measure_sqnr: Fixture
) -> None:
    model, x = dense(small, transposed=transposed, **attributes), make_images(16, (3, 8, 8))
    found = compress(model)
    assert kernels(found)["MatMulNBits"] == 2
    assert not kernels(found).keys() & {"DequantizeLinear", "MatMul", "Gemm", "FusedGemm"}
    assert measure_sqnr(run(open_session(model), x)[0], run(open_session(found), x)[0]) > 30


def test_without_the_kernels_rounding_only_the_weights_are_rounded(
    small: Any, make_images: Fixture, measure_sqnr: Fixture
) -> None:
    model, x = dense(small), make_images(16, (3, 8, 8))
    session = open_session(compress(model), optimize=False)
    assert measure_sqnr(run(open_session(model), x)[0], run(session, x)[0]) > 38


def test_a_shared_weight_is_stored_once_and_computes_in_float(
    small: Any, make_images: Fixture, measure_sqnr: Fixture
) -> None:
    flat, weight = small.add("Flatten", "x"), small.weight(192, 192)
    model = small.model(small.add("MatMul", small.add("Relu", small.add("MatMul", flat, weight)), weight))
    found, x = compress(model), make_images(8, (3, 8, 8))
    assert sum(array.dtype == np.int8 for array in found.weights().values()) == 1
    assert kernels(found) == {"Flatten": 1, "MatMul": 2, "Relu": 1}  # nothing is dequantized at run time
    assert measure_sqnr(run(open_session(model), x)[0], run(open_session(found), x)[0]) > 38


def test_a_weight_that_is_also_an_output_stays_beside_its_integers(small: Any) -> None:
    flat, weight = small.add("Flatten", "x"), small.weight(192, 192)
    model = small.model(small.add("MatMul", flat, weight))
    model.graph.graph.outputs.append(model.graph.graph.initializers[weight])
    found = quantize_weights_only(model, ANY, Context()).model
    np.testing.assert_array_equal(found.weights()[weight], model.weights()[weight])
    assert found.weights()[f"{weight}_quantized"].dtype == np.int8


def test_a_table_is_looked_up_in_int8(measure_sqnr: Fixture) -> None:
    text = "agraph (int64[n, s] x) => (float[n, s, 64] y) { y = Gather <axis = 0> (table, x) }"
    table = np.random.default_rng(0).normal(size=(300, 64)).astype(np.float32)
    table[7] *= 100  # a scale for each row: an outlier costs the others nothing
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {text}')
    proto.graph.initializer.append(onnx.numpy_helper.from_array(table, "table"))
    proto = onnx.shape_inference.infer_shapes(proto)
    model, x = Model.from_proto(proto), np.arange(300).reshape(10, 30)
    found = compress(model)
    rows = run(open_session(found), x)[0].reshape(300, 64)
    assert min(measure_sqnr(table[i], rows[i]) for i in range(300)) > 36
    assert found.weight_bytes < 0.3 * model.weight_bytes


def test_small_excluded_and_computed_ones_stay_float(new_net: Fixture) -> None:
    net = new_net(channels=3, size=8)
    flat = net.add("Flatten", "x")
    small = net.add("MatMul", flat, net.weight(192, 8))
    large = net.add("MatMul", flat, net.weight(192, 192))
    square = net.add("MatMul", flat, net.add("Transpose", flat, perm=[1, 0]))
    model = net.model(small, large, square)
    result = quantize_weights_only(model, ANY, Context(), excluded={"matmul_2"})
    assert result.facts["float_nodes"] == {
        "matmul_1": "fewer than 16,384 weights",
        "matmul_2": "excluded",
        "matmul_4": "its weight is computed",
    }
    assert result.facts["quantized_nodes"] == {}
    assert result.model.fingerprint() == model.fingerprint()


def test_convolutions_are_stored_in_int8_and_run_in_float_if_asked(
    new_net: Fixture, make_images: Fixture, measure_sqnr: Fixture
) -> None:
    net = new_net()
    model = net.model(net.head(net.conv(net.add("Relu", net.conv("x", 3, 64)), 64, 64), 64))
    found, x = compress(model, convolutions=True), make_images(4)
    assert compress(model).weight_bytes == model.weight_bytes
    assert found.weight_bytes < 0.33 * model.weight_bytes
    assert kernels(found).keys() <= {"Conv", "FusedConv", "GlobalAveragePool", "Flatten", "Gemm", "FusedGemm"}
    assert measure_sqnr(run(open_session(model), x)[0], run(open_session(found), x)[0]) > 38


def test_facts_and_a_warning_where_little_is_saved(new_net: Fixture) -> None:
    class Listening(Progress):
        def warn(self, message: str) -> None:
            warnings.append(message)

    warnings: list[str] = []
    model = dense(new_net(channels=3, size=8))
    facts = quantize_weights_only(model, ANY, Context(progress=Listening())).facts
    assert facts["quantized_nodes"] == {"Gemm": 1, "MatMul": 1}
    assert facts["bytes_saved"] == facts["weight_bytes_before"] - facts["weight_bytes_after"]
    assert facts["bytes_saved"] == 3 * (192 * 256 + 256 * 256) - 4 * (256 + 256)
    assert not warnings
    net = new_net()
    quantize_weights_only(net.model(net.head(net.conv("x", 3, 64), 64)), ANY, Context(progress=Listening()))
    assert "few weights are in large MatMul" in warnings[0]


@pytest.mark.parametrize("tier", ["mcu", "jetson"])
def test_tiers_without_a_kernel_for_it_refuse(tier: str, small: Any) -> None:
    with pytest.raises(UsageError, match=f"weight-only quantization .* tier {tier}"):
        quantize_weights_only(dense(small), load_tier(tier), Context())


def test_the_model_handed_in_is_untouched(small: Any) -> None:
    model = dense(small)
    before = model.fingerprint()
    compress(model, convolutions=True)
    assert model.fingerprint() == before
