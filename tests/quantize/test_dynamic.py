"""Dynamic int8 beside onnxruntime's own, on a BERT-like encoder fed with random ids."""

from __future__ import annotations

import io
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from encoder import encoder, ids

from edgeopt.errors import UsageError
from edgeopt.model import Model
from edgeopt.model.load import tidy
from edgeopt.model.runtime import open_session, run
from edgeopt.model.shapes import infer_shapes
from edgeopt.quantize.dynamic import quantize_dynamic
from edgeopt.quantize.verify import fused_operators
from edgeopt.quantize.weight_only import quantize_weights_only
from edgeopt.stage import Context
from edgeopt.tiers import load_tier

Fixture = Callable[..., Any]
ANY = load_tier("any")
X = ids(32, seed=5)


@pytest.fixture(scope="module")
def bert() -> Model:
    """As torch's TorchScript exporter writes it: MatMul and Add, Gemm for the last two."""
    import torch

    module, file = encoder(), io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            tuple(module.example_inputs.values()),
            file,
            dynamo=False,
            input_names=list(module.example_inputs),
            dynamic_axes=module.dynamic_axes,
            opset_version=17,
        )
    return infer_shapes(tidy(Model.from_proto(onnx.load_from_string(file.getvalue()))), None)


def logits(model: Model | bytes) -> np.ndarray:
    return run(open_session(model), X)[0]


def quantize_theirs(model: Model, folder: Path) -> bytes:
    """onnxruntime's quantize_dynamic, a scale for each channel."""
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization import quantize_dynamic as quantize

    (folder / "float.onnx").write_bytes(model.to_bytes())
    quantize(folder / "float.onnx", folder / "int8.onnx", per_channel=True, weight_type=QuantType.QInt8)
    return (folder / "int8.onnx").read_bytes()


def test_as_accurate_as_onnxruntimes_own(bert: Model, tmp_path: Path, measure_sqnr: Fixture) -> None:
    ours = quantize_dynamic(bert, ANY, Context()).model
    onnx.checker.check_model(ours.to_proto(), full_check=True)
    reference, found, theirs = logits(bert), logits(ours), logits(quantize_theirs(bert, tmp_path))
    assert measure_sqnr(reference, found) > measure_sqnr(reference, theirs) - 0.2
    assert (reference.argmax(1) == found.argmax(1)).mean() >= (reference.argmax(1) == theirs.argmax(1)).mean()


def test_every_large_product_fuses(bert: Model) -> None:
    ours = quantize_dynamic(bert, ANY, Context())
    left = Counter(operator for _, operator in fused_operators(ours.model, {}))
    assert ours.facts["quantized_nodes"] == {"Gather": 1, "Gemm": 1, "MatMul": 12}
    assert left["DynamicQuantizeMatMul"] + left["MatMulIntegerToFloat"] == 13
    assert not left["MatMulInteger"]
    assert left["MatMulIntegerToFloat"] == 6  # query, key and value share one quantized input, in two layers
    assert left["DynamicQuantizeLinear"] == 2


def test_the_file_is_a_third(bert: Model) -> None:
    ours = quantize_dynamic(bert, ANY, Context())
    assert ours.facts["weight_bytes_after"] < 0.3 * ours.facts["weight_bytes_before"]
    assert ours.model.size_bytes < 0.35 * bert.size_bytes


def test_weight_only_loses_less(bert: Model, measure_sqnr: Fixture) -> None:
    reference = logits(bert)
    found = [
        measure_sqnr(reference, logits(method(bert, ANY, Context()).model))
        for method in (quantize_weights_only, quantize_dynamic)
    ]
    assert found[0] > found[1] + 1


def test_integers_by_hand(new_net: Fixture, make_images: Fixture) -> None:
    """DynamicQuantizeLinear by its definition, int8 products, one scale for each column, alpha and beta of the Gemm."""
    net = new_net(channels=3, size=8)
    weight, bias = net.weight(128, 192), net.bias(128)
    gemm = net.add("Gemm", net.add("Flatten", "x"), weight, bias, transB=1, alpha=0.5, beta=2.0)
    model, x = net.model(gemm), make_images(4, (3, 8, 8))
    found = run(open_session(quantize_dynamic(model, ANY, Context()).model, optimize=False), x)[0]

    flat, w, b = x.reshape(4, -1).astype(np.float64), model.weights()[weight], model.weights()[bias]
    step = (max(flat.max(), 0) - min(flat.min(), 0)) / 255
    zero = np.clip(np.rint(-min(flat.min(), 0) / step), 0, 255)
    levels = np.clip(np.rint(flat / step) + zero, 0, 255) - zero
    scale = np.abs(w).max(1) / 127
    expected = levels @ np.rint(w / scale[:, None]).T * step * scale * 0.5 + 2 * b
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=2e-3 * np.abs(expected).max())


@pytest.mark.parametrize("tier", ["mcu", "jetson"])
def test_tiers_without_a_kernel_for_it_refuse(tier: str, bert: Model) -> None:
    with pytest.raises(UsageError, match=f"dynamic quantization .* tier {tier}"):
        quantize_dynamic(bert, load_tier(tier), Context())


def test_a_model_without_products_comes_back_as_it_is(new_net: Fixture) -> None:
    net = new_net()
    model = net.model(net.add("Relu", "x"))
    result = quantize_dynamic(model, ANY, Context())
    assert result.model.fingerprint() == model.fingerprint()
    assert result.facts["quantized_nodes"] == {}
