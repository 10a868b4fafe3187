"""The stage as a recipe uses it: accuracy beside onnxruntime's own quantizer, facts, and refusals."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnx
import pytest
from heard import Heard

from edgeopt.errors import StageFailed, UsageError
from edgeopt.model import Model
from edgeopt.model.runtime import open_session, run
from edgeopt.quantize import Calibrator, MinMax, Mse, Percentile, Quantize
from edgeopt.quantize.bias import BiasCorrection
from edgeopt.quantize.budget import Found
from edgeopt.quantize.build import Built
from edgeopt.quantize.layers import integer_layers, with_layers
from edgeopt.stage import StageResult
from edgeopt.tiers import list_tiers, load_tier

pytestmark = pytest.mark.usefixtures("unsimplified")
Fixture = Callable[..., Any]
FAMILY = [member() for member in get_args(get_args(Calibrator)[0])]
INT8_TIERS = [name for name in list_tiers() if "int8" in load_tier(name).precisions]


def sqnr_of(quantized: Model | bytes, model: Model, x: np.ndarray, measure_sqnr: Fixture) -> float:
    return float(measure_sqnr(run(open_session(model), x)[0], run(open_session(quantized), x)[0]))


def quantize_static(model: Model, x: np.ndarray, folder: Path) -> bytes:
    """onnxruntime's quantizer with minmax, per channel, on the same images."""
    from onnxruntime.quantization import CalibrationDataReader, QuantType
    from onnxruntime.quantization import quantize_static as quantize

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = iter([{"x": x}])

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.left, None)

    (folder / "float.onnx").write_bytes(model.to_bytes())
    quantize(
        folder / "float.onnx",
        folder / "int8.onnx",
        Reader(),
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
    return (folder / "int8.onnx").read_bytes()


@pytest.mark.parametrize("network", ["resnet_model", "mobilenet_model"])
def test_not_less_accurate_than_onnxruntimes_quantizer(
    network: str,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    make_images: Fixture,
    make_context: Fixture,
    measure_sqnr: Fixture,
) -> None:
    model, x, test = request.getfixturevalue(network), make_images(48), make_images(64, seed=5)
    ours = Quantize(calibrator=MinMax()).apply(model, make_context(x)).model
    theirs = quantize_static(model, x, tmp_path)
    assert sqnr_of(ours, model, test, measure_sqnr) > sqnr_of(theirs, model, test, measure_sqnr) - 0.3


@pytest.mark.parametrize("calibrator", [Percentile(percentile=99.9), Mse()], ids=lambda c: c.kind)
def test_a_clipping_calibrator_beats_minmax_when_one_image_is_an_outlier(
    calibrator: Calibrator, resnet_model: Model, make_images: Fixture, make_context: Fixture, measure_sqnr: Fixture
) -> None:
    x, test = make_images(48), make_images(64, seed=5)
    x[7, :, 3, 3] = 100  # one bright pixel
    found = [
        sqnr_of(Quantize(calibrator=c).apply(resnet_model, make_context(x)).model, resnet_model, test, measure_sqnr)
        for c in (calibrator, MinMax())
    ]
    assert found[0] > found[1] + 0.5


@pytest.mark.parametrize("tier", INT8_TIERS)
@pytest.mark.parametrize("calibrator", FAMILY, ids=lambda c: c.kind)
def test_every_calibrator_on_every_tier(
    calibrator: Calibrator,
    tier: str,
    mobilenet_model: Model,
    make_images: Fixture,
    make_context: Fixture,
    measure_sqnr: Fixture,
) -> None:
    before = mobilenet_model.fingerprint()
    context = make_context(make_images(16), tier=load_tier(tier))
    result = Quantize(calibrator=calibrator).apply(mobilenet_model, context)
    onnx.checker.check_model(result.model.to_proto(), full_check=True)
    x = make_images(1, seed=5)
    assert sqnr_of(result.model, mobilenet_model, x, measure_sqnr) > 15
    assert mobilenet_model.fingerprint() == before
    facts = result.facts
    assert facts["calibrator"] == calibrator.model_dump()
    assert facts["samples"] == 16
    assert facts["quantized_nodes"]["Conv"] == 8
    assert 0 <= facts["clipped_share_max"] < (0.2 if calibrator.needs_counts else 1e-9)
    assert facts["activation_bytes_observed"] > 16 * 3 * 16 * 16 * 4


def test_the_same_seed_and_data_give_the_same_bytes(
    mobilenet_model: Model, make_images: Fixture, make_context: Fixture
) -> None:
    x = make_images(64)
    models = [
        Quantize(samples=20, calibrator=Mse()).apply(mobilenet_model, make_context(x, seed=seed)).model.to_bytes()
        for seed in (1, 1, 2)
    ]
    assert models[0] == models[1] != models[2]


def test_an_int8_file_is_under_30_percent_of_the_float_one(
    new_net: Fixture, make_images: Fixture, make_context: Fixture
) -> None:
    net = new_net()
    x = net.add("Relu", net.conv("x", 3, 64))
    model = net.model(net.head(net.add("Relu", net.conv(net.add("Relu", net.conv(x, 64, 64)), 64, 128)), 128))
    found = Quantize().apply(model, make_context(make_images(8))).model
    assert len(found.to_bytes()) < 0.3 * len(model.to_bytes())


@pytest.mark.parametrize("opset", [11, 12, 13, 20, 21])
def test_any_opset(
    opset: int, new_net: Fixture, make_images: Fixture, make_context: Fixture, measure_sqnr: Fixture
) -> None:
    net = new_net()
    model = net.model(net.head(net.relu6(net.conv("x", 3, 8)), 8), opset=opset)
    found = Quantize(samples=8).apply(model, make_context(make_images(8), tier=load_tier("mcu"))).model
    onnx.checker.check_model(found.to_proto(), full_check=True)
    assert sqnr_of(found, model, make_images(1, seed=5), measure_sqnr) > 20


def test_fewer_images_than_samples_is_fine(resnet_model: Model, make_images: Fixture, make_context: Fixture) -> None:
    assert Quantize(samples=256).apply(resnet_model, make_context(make_images(3))).facts["samples"] == 3


class TestRefusals:
    def test_an_already_quantized_model(self, resnet_model: Model, make_images: Fixture, make_context: Fixture) -> None:
        context = make_context(make_images(4))
        quantized = Quantize().apply(resnet_model, context).model
        with pytest.raises(UsageError, match="quantized already"):
            Quantize().apply(quantized, context)

    def test_weights_that_are_not_finite(self, new_net: Fixture, make_images: Fixture, make_context: Fixture) -> None:
        net = new_net()
        broken = net.constant(np.full((4, 3, 1, 1), np.nan, np.float32), "stem.weight")
        model = net.model(net.add("Conv", "x", broken, kernel_shape=[1, 1]))
        with pytest.raises(UsageError, match=r"'stem\.weight' holds NaN or infinite"):
            Quantize().apply(model, make_context(make_images(4)))

    def test_activations_that_are_not_finite(
        self, resnet_model: Model, make_images: Fixture, make_context: Fixture
    ) -> None:
        x = make_images(4)
        x[2, 0, 0, 0] = np.inf
        with pytest.raises(StageFailed, match="'x' holds NaN or infinite"):
            Quantize().apply(resnet_model, make_context(x))

    @pytest.mark.parametrize("tier", ["any", "mcu"])
    def test_not_finite_on_the_way_stays_float_or_is_refused_where_all_is_integer(
        self, tier: str, new_net: Fixture, make_images: Fixture, make_context: Fixture
    ) -> None:
        net = new_net()
        x = net.conv("x", 3, 4)
        broken = net.add("Mul", x, net.constant(np.float32(3e38)))  # infinite here and there
        model = net.model(net.head(net.add("Add", net.add("Sigmoid", broken), x), 4))
        listening = Heard()
        context = make_context(make_images(16), tier=load_tier(tier), progress=listening)
        if tier == "mcu":
            with pytest.raises(StageFailed, match="'mul_1_out' holds NaN or infinite"):
                Quantize(preset="fast").apply(model, context)
            return
        result = Quantize(preset="fast", speed="integers").apply(model, context)
        assert any("'mul_1_out' holds NaN or infinite" in warning for warning in listening.warnings)
        assert {"Conv", "Gemm"} <= set(result.facts["quantized_nodes"])
        assert {"mul_1", "sigmoid_2"} <= set(result.facts["float_nodes"])

    def test_several_inputs(self, make_images: Fixture, make_context: Fixture) -> None:
        text = "agraph (float[n, 4] a, float[n, 4] b) => (float[n, 4] y) { y = Add(a, b) }"
        proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {text}')
        with pytest.raises(UsageError, match=r"2 inputs \(a, b\)"):
            Quantize().apply(Model.from_proto(proto), make_context(make_images(4)))

    def test_no_data(self, resnet_model: Model) -> None:
        from edgeopt.stage import Context

        with pytest.raises(UsageError, match="quantize needs images"):
            Quantize().apply(resnet_model, Context())


def test_a_search_that_ctrl_c_ended_is_no_finished_result(
    resnet_model: Model, make_images: Fixture, make_context: Fixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for stopped in ("ctrl_c", "time_budget", None):
        found = Found(frozenset(), {"stopped_by": stopped})
        monkeypatch.setattr("edgeopt.quantize.stage.meet_budget", lambda *_, found=found, **__: found)
        result = Quantize(preset="fast", max_drop=1.0).apply(resnet_model, make_context(make_images(16)))
        assert result.unfinished == (stopped == "ctrl_c")


def test_of_rival_calibrators_the_nearest_to_float_is_taken(
    mobilenet_model: Model, make_images: Fixture, make_context: Fixture
) -> None:
    crude = Percentile(percentile=60.0)
    settings = {"preset": "fast", "speed": "integers", "calibrator": crude.model_dump(), "rivals": [{"kind": "minmax"}]}
    result = Quantize(**settings).apply(mobilenet_model, make_context(make_images(96)))
    found = result.facts["calibrators_sqnr_db"]
    assert found["minmax"][0] > found["percentile"][0] + 3
    assert result.facts["calibrator"] == {"kind": "minmax"}
    alone = Quantize(**settings | {"calibrator": {"kind": "minmax"}, "rivals": []})
    plain = alone.apply(mobilenet_model, make_context(make_images(96)))
    assert result.model.fingerprint() == plain.model.fingerprint()


def test_a_calibrator_that_was_given_has_no_rivals() -> None:
    assert Quantize().rivals == (Mse(clipping=4), MinMax())
    assert Quantize(calibrator={"kind": "entropy"}).rivals == ()


def test_a_refinement_that_brings_nothing_is_undone(
    mobilenet_model: Model, make_images: Fixture, make_context: Fixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoil(self: BiasCorrection, model: Model, built: Built, *rest: object) -> StageResult:
        first = integer_layers(built.model)[0]
        return StageResult(with_layers(built.model, {first.name: (-first.weight, None)}), {})

    plain = Quantize(preset="fast").apply(mobilenet_model, make_context(make_images(80)))
    monkeypatch.setattr(BiasCorrection, "refine", spoil)
    spoilt = Quantize(preset="fast", refinements=[{"kind": "bias_correction"}])
    result = spoilt.apply(mobilenet_model, make_context(make_images(80)))
    assert result.facts["bias_correction"]["kept"] is False
    assert result.facts["bias_correction"]["gain_db"] < 0
    assert result.model.fingerprint() == plain.model.fingerprint()
