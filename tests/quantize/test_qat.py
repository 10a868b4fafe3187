"""Quantization-aware training: the gradient, the training graph and the way back, and what training wins."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from arrays import split_of
from pydantic import TypeAdapter, ValidationError

from edgeopt.data import Data
from edgeopt.errors import StageFailed, UsageError
from edgeopt.model import Model
from edgeopt.model.runtime import open_session, run
from edgeopt.model.to_torch import from_torch, to_torch
from edgeopt.model.torch_ops.fake_quantize import PACE, fake_quantize, fake_quantize_bias, fake_quantize_weight
from edgeopt.progress import Progress
from edgeopt.quantize.build import Builder, Built, wanted_tensors
from edgeopt.quantize.calibrators import Calibrator, MinMax, Percentile
from edgeopt.quantize.histogram import Histogram
from edgeopt.quantize.layers import integer_layers, with_layers
from edgeopt.quantize.prepare import prepare
from edgeopt.quantize.qat import Qat
from edgeopt.quantize.qat.batch import check_batches, free_batch
from edgeopt.quantize.qat.graph import Training, to_integers, to_training
from edgeopt.quantize.weights import MaxScale
from edgeopt.stage import Context
from edgeopt.tiers import Tier, load_tier

Fixture = Callable[..., Any]

pytestmark = pytest.mark.usefixtures("unsimplified")


def by_hand(v: float, s: float, low: int, high: int) -> tuple[float, float, float]:
    """LSQ: value, derivative by v (equation 5) and by s (equation 3)."""
    if v / s <= low:
        return low * s, 0.0, low
    if v / s >= high:
        return high * s, 0.0, high
    return round(v / s) * s, 1.0, round(v / s) - v / s


def learn(model: Model, tier: Tier, x: np.ndarray, calibrator: Calibrator | None = None) -> tuple[Model, Built]:
    """The prepared float graph, and its Q/DQ version with ranges from `x`."""
    prepared = prepare(model, tier, Context())
    names = wanted_tensors(prepared, tier)
    observed = dict(zip(names, (Histogram() for _ in names), strict=True))
    probe = prepared.copy()
    values = {v.name: v for node in probe.graph.graph for v in node.outputs}
    inner = [name for name in names if name in values and not values[name].is_graph_output()]
    probe.graph.graph.outputs.extend(values[name] for name in inner)
    session = open_session(probe, threads=1)
    outputs = [output.name for output in session.get_outputs()]
    for sample in x if not tier.dynamic_batch else [x]:
        feed = sample.reshape(-1, *x.shape[1:])
        for name, array in [("x", feed), *zip(outputs, run(session, feed), strict=True)]:
            if name in observed:
                observed[name].count(array)
    for name, value in prepared.weights().items():
        if name in observed:
            observed[name].count(value)
    return prepared, Builder(prepared, tier, observed, calibrator or MinMax(), MaxScale()).build()


def answers(model: Model, x: np.ndarray, tier: Tier) -> np.ndarray:
    """Float biases: as written, because onnxruntime's optimizer would make integers of them (TensorRT does not)."""
    session = open_session(model, threads=1, entries=tier.session, optimize=tier.placement.quantize_bias)
    size = 1 if not tier.dynamic_batch else len(x)
    return np.concatenate([run(session, x[i : i + size])[0] for i in range(0, len(x), size)])


def context_of(x: np.ndarray, labels: np.ndarray | None, **settings: Any) -> Context:
    split = split_of(x, labels)
    return Context(data=Data("rows", split, split, split, (), None, "f"), **settings)


@pytest.fixture
def two_branches(new_net: Fixture, make_images: Fixture) -> Model:
    """Strided, depthwise and 1x1 convolutions, Clip, a residual Add, a Concat, an average pool, a Gemm.

    Its logits have mean 0 and deviation 3 each, so that every class is the answer to some images.
    """
    model = branches(new_net(size=12))
    logits = answers(model, make_images(256, (3, 12, 12), seed=3), load_tier("any"))
    gain = 3 / logits.std(axis=0)
    head = next(node for node in model.graph.graph if node.op_type == "Gemm")
    weight, bias = (value.const_value.numpy() for value in head.inputs[1:])
    for value, array in zip(head.inputs[1:], (weight * gain[:, None], (bias - logits.mean(0)) * gain), strict=True):
        value.const_value = ir.tensor(array.astype(np.float32), name=value.name)
    return model


def branches(net: Any) -> Model:
    x = net.add("Relu", net.conv("x", 3, 8, stride=2))
    y = net.relu6(net.conv(x, 8, 8, group=8))
    x = net.add("Add", net.conv(y, 8, 8, 1), x)
    x = net.add("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2])
    x = net.add("Concat", net.add("Relu", net.conv(x, 8, 8)), net.add("Relu", net.conv(x, 8, 8, 1)), axis=1)
    return net.model(net.head(x, 16))


@pytest.mark.parametrize(("low", "high"), [(-127, 127), (0, 255), (-30, 225), (-2, 1)])
def test_value_and_gradients_are_those_of_the_paper(low: int, high: int) -> None:
    x = torch.tensor([[-4.03, -0.26, 0.0, 0.019, 0.11, 0.37, 1.26, 9.0]], requires_grad=True)
    scale = torch.tensor(0.1, requires_grad=True)
    incoming = torch.tensor([[0.5, -1.0, 2.0, 1.0, -3.0, 0.25, 1.5, 0.125]])
    out = fake_quantize(x, scale, low=low, high=high)
    out.backward(incoming)
    value, by_x, by_scale = zip(*(by_hand(v, 0.1, low, high) for v in x[0].tolist()), strict=True)
    torch.testing.assert_close(out[0], torch.tensor(value))
    torch.testing.assert_close(x.grad[0], incoming[0] * torch.tensor(by_x))
    expected = float((incoming[0] * torch.tensor(by_scale)).sum()) * PACE * 0.1**2
    assert scale.grad.item() == pytest.approx(expected, rel=1e-4)


def test_a_range_that_starts_at_zero_is_a_relu() -> None:
    x = torch.linspace(-1, 1, 41).requires_grad_()
    fake_quantize(x, torch.tensor(1 / 64), low=0, high=255).sum().backward()
    other = x.detach().clone().requires_grad_()
    torch.relu(other).sum().backward()
    assert torch.equal(x.grad, other.grad)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_layout_does_not_change_the_gradient_of_the_scale(layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    x, incoming = torch.randn(4, 6, 5, 5), torch.randn(4, 6, 5, 5)
    scale = torch.tensor(0.013, requires_grad=True)
    fake_quantize(x.to(memory_format=layout), scale, low=0, high=255).backward(incoming)
    exact = [
        g * by_hand(v, 0.013, 0, 255)[2] for v, g in zip(x.flatten().tolist(), incoming.flatten().tolist(), strict=True)
    ]
    assert scale.grad.item() == pytest.approx(sum(exact) * PACE * 0.013**2, rel=1e-3)


@pytest.mark.parametrize("axis", [0, 1])
def test_each_channel_of_a_weight_has_its_own_scale_and_gradient(axis: int) -> None:
    torch.manual_seed(0)
    weight = torch.randn(3, 3).requires_grad_()
    scale = torch.tensor([0.004, 0.02, 0.1], requires_grad=True)
    incoming = torch.randn(3, 3)
    out = fake_quantize_weight(weight, scale, low=-127, high=127, axis=axis)
    out.backward(incoming)
    expected = torch.zeros(3)
    for i in range(3):
        for j in range(3):
            channel = (i, j)[axis]
            value, by_weight, by_scale = by_hand(weight[i, j].item(), scale[channel].item(), -127, 127)
            assert out[i, j].item() == pytest.approx(value, rel=1e-5)
            assert weight.grad[i, j] == incoming[i, j] * by_weight
            expected[channel] += incoming[i, j] * by_scale * PACE * scale[channel].item() ** 2
    torch.testing.assert_close(scale.grad, expected, rtol=1e-3, atol=1e-7)


def test_a_bias_has_the_unit_of_its_accumulator_and_moves_no_scale() -> None:
    bias = torch.tensor([0.26, -1.24], requires_grad=True)
    input_scale, weight_scale = torch.tensor(0.5, requires_grad=True), torch.tensor([0.2, 1.0], requires_grad=True)
    out = fake_quantize_bias(bias, input_scale, weight_scale)
    torch.testing.assert_close(out, torch.tensor([0.3, -1.0]))
    out.sum().backward()
    assert bias.grad.tolist() == [1, 1]
    assert input_scale.grad is None
    assert weight_scale.grad is None


@pytest.mark.parametrize("tier", ["any", "mcu", "jetson"])
def test_an_untrained_module_writes_the_very_file_it_came_from(
    tier: str, two_branches: Model, make_images: Fixture
) -> None:
    prepared, built = learn(two_branches, load_tier(tier), make_images(16, (3, 12, 12)))
    training = to_training(built.model, prepared)
    trained = from_torch(to_torch(training.model), training.model)
    written = to_integers(Training(trained, training.scales, training.constants), built.model)
    assert written.to_bytes() == built.model.to_bytes()
    operators = {node.op_type for node in training.model.graph.graph}
    assert not {"QuantizeLinear", "DequantizeLinear"} & operators


def test_weights_start_at_the_float_values_and_refined_ones_at_their_integer(
    two_branches: Model, make_images: Fixture
) -> None:
    prepared, built = learn(two_branches, load_tier("any"), make_images(16, (3, 12, 12)))
    layer = integer_layers(built.model)[0]
    refined = layer.weight.copy()
    refined[0, 0, 0, 0] -= np.sign(refined[0, 0, 0, 0]) or 1
    changed = with_layers(built.model, {layer.name: (refined, None)})
    training = to_training(changed, prepared)
    written = to_integers(training, changed)
    assert written.to_bytes() == changed.to_bytes()
    constant = next(c for c in training.constants if changed.weights()[c.integers].shape == refined.shape)
    start = training.model.weights()[constant.values]
    node = next(node for node in prepared.graph.graph if node.name == layer.name)
    floats = node.inputs[1].const_value.numpy()
    assert start[0, 0, 0, 0] == pytest.approx(refined[0, 0, 0, 0] * layer.weight_scale[0])
    assert np.array_equal(start.reshape(-1)[1:], floats.reshape(-1)[1:])


def test_tensors_of_one_group_keep_one_scale(two_branches: Model, make_images: Fixture) -> None:
    prepared, built = learn(two_branches, load_tier("any"), make_images(16, (3, 12, 12)))
    training = to_training(built.model, prepared)
    groups = {point.group for point in built.plan.points}
    activations = [node for node in training.model.graph.graph if node.op_type == "FakeQuantize"]
    assert len(groups) < len(activations) == len(built.plan.points)
    assert {node.inputs[1].name for node in activations} == {f"{group}_scale" for group in groups}
    parameters = dict(to_torch(training.model).named_parameters())
    assert all(f"{group}_scale" in parameters for group in groups)


@pytest.mark.parametrize("tier", ["any", "mcu", "jetson"])
def test_torch_and_onnxruntime_agree_to_one_step_after_training(
    tier: str, two_branches: Model, make_images: Fixture
) -> None:
    """On the trained module, and on the module made of the written file."""
    chosen, x = load_tier(tier), make_images(128, (3, 12, 12))
    prepared, built = learn(two_branches, chosen, x[:16])
    training = to_training(free_batch(built.model), prepared)
    module = to_torch(training.model)
    torch.manual_seed(0)
    with torch.no_grad():  # as far from the start as training would go
        for parameter in module.parameters():
            parameter.mul_(1 + 0.1 * torch.randn_like(parameter))
    trained = from_torch(module, training.model)
    written = to_integers(Training(trained, training.scales, training.constants), built.model)
    assert written.to_bytes() != built.model.to_bytes()
    assert min(layer.weight.min() for layer in integer_layers(written)) == -127
    fresh = make_images(400, (3, 12, 12), seed=9)
    wanted = answers(written, fresh, chosen)
    step = step_of(written, wanted)
    for twin in (module, to_torch(free_batch(written))):
        with torch.no_grad():
            found = twin(torch.from_numpy(fresh)).numpy()
        assert np.mean(np.abs(found - wanted) <= step * 1.001) >= 0.999
    assert np.abs(answers(built.model, fresh, chosen) - wanted).max() > 5 * step


def step_of(model: Model, outputs: np.ndarray) -> float:
    """The step of the output's grid; where it is float, the step that 8 bits would have."""
    maker = model.graph.graph.outputs[0].producer()
    if maker.op_type == "DequantizeLinear":
        return float(maker.inputs[1].const_value.numpy())
    return float(np.ptp(outputs)) / 255


@pytest.mark.parametrize("fault", ["clipped", "outlier"])
def test_training_brings_back_what_quantization_lost(fault: str, two_branches: Model, make_images: Fixture) -> None:
    tier, x = load_tier("any"), make_images(512, (3, 12, 12))
    labels = answers(two_branches, x, tier).argmax(1)
    seen = x[:64].copy()
    if fault == "outlier":
        seen[0, 0, 0, 0] = 300.0  # one broken pixel among the calibration images stretches every range
    calibrator = Percentile(percentile=95) if fault == "clipped" else MinMax()
    prepared, built = learn(two_branches, tier, seen, calibrator)
    settings = Qat(epochs=5, batch_size=32, lr=0.01)
    result = settings.train(prepared, built, context_of(x, labels, tier=tier))
    fresh = make_images(300, (3, 12, 12), seed=9)
    truth = answers(two_branches, fresh, tier).argmax(1)
    before = np.mean(answers(built.model, fresh, tier).argmax(1) == truth)
    after = np.mean(answers(result.model, fresh, tier).argmax(1) == truth)
    assert before < 0.8
    assert after > before + (1 - before) / 3
    facts = json.loads(json.dumps(result.facts))
    assert facts["kept"] is True
    assert facts["after"]["loss"] < facts["before"]["loss"]
    assert facts["before"]["accuracy"] < facts["after"]["accuracy"]
    assert [entry["epoch"] for entry in facts["history"]] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_labels_and_soft_targets_each_suffice(alpha: float, two_branches: Model, make_images: Fixture) -> None:
    tier, x = load_tier("any"), make_images(320, (3, 12, 12))
    labels = answers(two_branches, x, tier).argmax(1) if alpha < 1 else None
    prepared, built = learn(two_branches, tier, x[:32], Percentile(percentile=80))
    result = Qat(epochs=2, batch_size=32, alpha=alpha).train(prepared, built, context_of(x, labels, tier=tier))
    assert result.facts["after"]["loss"] < result.facts["before"]["loss"]
    assert (result.facts["after"]["accuracy"] is None) == (labels is None)


def test_labels_alone_need_labels(two_branches: Model, make_images: Fixture) -> None:
    prepared, built = learn(two_branches, load_tier("any"), make_images(16, (3, 12, 12)))
    with pytest.raises(UsageError, match="needs labelled images"):
        Qat(alpha=0).train(prepared, built, context_of(make_images(16, (3, 12, 12)), None))


def test_training_that_makes_it_worse_is_not_kept(two_branches: Model, make_images: Fixture) -> None:
    tier, x = load_tier("any"), make_images(128, (3, 12, 12))
    prepared, built = learn(two_branches, tier, x)
    warnings: list[str] = []

    class Listening(Progress):
        def warn(self, message: str) -> None:
            warnings.append(message)

    ruin = Qat(epochs=1, batch_size=32, lr=3.0, temperature=1.0)
    result = ruin.train(prepared, built, context_of(x, None, tier=tier, progress=Listening()))
    assert result.facts["kept"] is False
    assert result.facts["after"]["loss"] > result.facts["before"]["loss"]
    assert result.model.to_bytes() == built.model.to_bytes()
    assert "training did not help" in warnings[0]


class Stop(Progress):
    """Ends the run with Ctrl-C after so many steps."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def advance(self, steps: int = 1, metric: str = "") -> None:
        self.left -= steps
        if self.left <= 0:
            raise KeyboardInterrupt


def test_a_resumed_run_ends_as_an_undisturbed_one(two_branches: Model, make_images: Fixture, tmp_path: Any) -> None:
    tier, x = load_tier("any"), make_images(128, (3, 12, 12))
    prepared, built = learn(two_branches, tier, x[:32], Percentile(percentile=90))
    settings = Qat(epochs=3, batch_size=32)
    whole = settings.train(prepared, built, context_of(x, None, tier=tier))
    with pytest.raises(KeyboardInterrupt):
        settings.train(prepared, built, context_of(x, None, tier=tier, scratch=tmp_path, progress=Stop(7)))
    assert list(tmp_path.iterdir())
    resumed = settings.train(prepared, built, context_of(x, None, tier=tier, scratch=tmp_path))
    assert whole.facts["kept"]
    assert resumed.model.to_bytes() == whole.model.to_bytes()
    assert resumed.facts["before"] == whole.facts["before"]


def test_a_graph_for_one_image_at_a_time_is_trained_in_batches(new_net: Fixture, make_images: Fixture) -> None:
    net = new_net(size=12)
    x = net.add("GlobalAveragePool", net.add("Relu", net.conv("x", 3, 8)))
    x = net.add("Reshape", x, net.constant(np.array([1, 8], np.int64)))
    net.shape[0] = 1
    model = net.model(net.add("Gemm", x, net.weight(10, 8), net.bias(10), transB=1))
    mcu, images = load_tier("mcu"), make_images(128, (3, 12, 12))
    prepared, built = learn(model, mcu, images[:16], Percentile(percentile=80))
    result = Qat(epochs=2, batch_size=32).train(prepared, built, context_of(images, None, tier=mcu))
    assert result.facts["kept"]
    assert result.model.inputs == built.model.inputs
    assert answers(result.model, images[:4], mcu).shape == (4, 10)


def test_a_graph_that_mixes_the_batch_is_refused() -> None:
    mixing = torch.nn.Softmax(dim=0)
    with pytest.raises(StageFailed, match="fixed to its batch size"):
        check_batches(mixing, torch.randn(1, 5))
    check_batches(torch.nn.Softmax(dim=1), torch.randn(1, 5))


def test_a_network_that_does_not_classify_learns_its_outputs(new_net: Fixture, make_images: Fixture) -> None:
    net = new_net(size=12)
    model = net.model(net.conv(net.add("Relu", net.conv("x", 3, 8)), 8, 2))
    tier, x = load_tier("any"), make_images(256, (3, 12, 12))
    prepared, built = learn(model, tier, x[:32], Percentile(percentile=80))
    result = Qat(epochs=3, batch_size=32).train(prepared, built, context_of(x, None, tier=tier))
    reference = answers(model, x, tier)
    before, after = (np.square(answers(m, x, tier) - reference).mean() for m in (built.model, result.model))
    assert after < before / 2


def test_the_training_module_survives_a_trip_to_another_process(two_branches: Model, make_images: Fixture) -> None:
    x = make_images(16, (3, 12, 12))
    prepared, built = learn(two_branches, load_tier("any"), x)
    module = to_torch(to_training(built.model, prepared).model)
    twin = pickle.loads(pickle.dumps(module))
    with torch.no_grad():
        assert torch.equal(twin(torch.from_numpy(x)), module(torch.from_numpy(x)))


def test_a_pair_of_different_scales_is_refused(two_branches: Model, make_images: Fixture) -> None:
    prepared, built = learn(two_branches, load_tier("any"), make_images(16, (3, 12, 12)))
    broken = built.model.copy()
    node = next(n for n in broken.graph.graph if n.op_type == "QuantizeLinear")
    other = ir.Value(name="other", const_value=ir.tensor(np.float32(7), name="other"))
    broken.graph.graph.register_initializer(other)
    node.replace_input_with(1, other)
    with pytest.raises(StageFailed, match="another scale"):
        to_training(broken, prepared)


def test_a_number_stands_for_the_epochs() -> None:
    read = TypeAdapter(Qat).validate_python
    assert read(5) == read("5") == read({"epochs": 5}) == Qat(epochs=5)
    for wrong in ("many", True, 0, {"epoch": 3}):
        with pytest.raises(ValidationError):
            read(wrong)
    assert {"type": "integer", "minimum": 1} in Qat.model_json_schema()["anyOf"]
