from __future__ import annotations

import copy
import importlib.util
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from torch import nn

from edgeopt.errors import UsageError
from edgeopt.model import Model
from edgeopt.model.export import export_module
from edgeopt.model.runtime import open_session, run
from edgeopt.model.to_torch import from_torch, to_torch, trained_names


class Small(nn.Module):
    """A residual network with the parts that have a say in training: BatchNormalization, pooling, a reshape."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.body = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.BatchNorm2d(8, momentum=0.3), nn.GELU())
        self.token = nn.Parameter(torch.randn(1, 8, 1, 1))
        self.head = nn.Linear(8 * 16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        x = x + self.body(x) + self.token
        x = nn.functional.max_pool2d(x, 2)
        return self.head(x.reshape(x.shape[0], -1))


def small() -> tuple[Small, Model]:
    network, model = _exported()
    return copy.deepcopy(network), model


@cache
def _exported() -> tuple[Small, Model]:
    torch.manual_seed(0)
    network = Small()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -1, 1)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return network, export_module(network, torch.randn(2, 3, 8, 8))


def parse(text: str) -> Model:
    return Model.from_proto(onnx.parser.parse_model(text))


def graph(body: str, opset: int = 20, weights: str = "") -> Model:
    return parse(
        f'<ir_version: 8, opset_import: ["": {opset}]>g (float[N, 4] x) => (float[N, M] y) <{weights}> {{ {body} }}'
    )


def relative(found: np.ndarray, reference: np.ndarray) -> float:
    return float(np.abs(found - reference).max() / np.abs(reference).max())


def test_agrees_with_onnxruntime_and_the_network_it_came_from_at_any_batch():
    network, model = small()
    module = to_torch(model)
    for batch in (1, 2, 7):
        x = torch.randn(batch, 3, 8, 8)
        found = module(x).detach().numpy()
        assert relative(found, run(open_session(model), x.numpy())[0]) < 1e-5
        assert relative(found, network.eval()(x).detach().numpy()) < 1e-5


@pytest.mark.parametrize("name", ["input.1", "self", "class", "x:0"])
def test_an_input_may_have_any_name_that_onnx_allows(name):
    _, model = small()
    renamed = model.copy()
    renamed.graph.graph.inputs[0].name = name
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(to_torch(renamed)(x), to_torch(model)(x))


def test_trains_step_for_step_as_the_network_it_came_from():
    network, model = small()
    module = to_torch(model)
    generator = torch.Generator().manual_seed(1)
    for step_of in (network.train(), module.train()):
        generator.manual_seed(1)
        optimizer = torch.optim.SGD(step_of.parameters(), lr=0.1, momentum=0.9)
        for _ in range(5):
            x = torch.randn(6, 3, 8, 8, generator=generator)
            optimizer.zero_grad()
            nn.functional.cross_entropy(step_of(x), torch.arange(6) % 5).backward()
            optimizer.step()
    reference, found = network.state_dict(), module.state_dict()
    shared = [name for name in reference if not name.endswith("num_batches_tracked")]
    assert set(shared) <= set(found)
    for name in shared:  # running statistics too
        torch.testing.assert_close(found[name], reference[name], rtol=1e-4, atol=1e-5)


def test_parameters_and_state_dict_are_named_as_the_initializers():
    network, model = small()
    module = to_torch(model)
    assert set(module.state_dict()) == set(model.weights())
    assert set(dict(module.named_parameters())) == set(dict(network.named_parameters())) == trained_names(model)


def test_evaluation_leaves_running_statistics_alone_and_training_moves_them():
    _, model = small()
    module = to_torch(model)
    before = copy.deepcopy(module.state_dict())
    x = torch.randn(4, 3, 8, 8)
    module(x)
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    module.train()(x)
    moved = {name for name, value in module.state_dict().items() if not torch.equal(before[name], value)}
    assert moved == {f"{part}.1.running_{what}" for part in ("stem", "body") for what in ("mean", "var")}


class Standardized(nn.Conv2d):
    """A convolution whose weight is standardized at every step, as timm's normalizer-free networks have it."""

    def __init__(self) -> None:
        super().__init__(3, 6, 3, padding=1, bias=False)
        self.gain = nn.Parameter(torch.rand(6, 1, 1, 1) + 0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = self.weight.reshape(1, self.out_channels, -1)
        scale = (self.gain * self.weight[0].numel() ** -0.5).view(-1)
        weight = nn.functional.batch_norm(flat, None, None, weight=scale, training=True, momentum=0.0, eps=1e-5)
        return nn.functional.conv2d(x, weight.reshape_as(self.weight), None, padding=1)


def test_a_standardized_weight_trains_step_for_step_as_in_torch() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(Standardized(), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 16, 3))
    model = export_module(network.eval(), torch.randn(2, 3, 4, 4))
    ours, theirs = to_torch(model).train(), network.train()
    assert {name for name, _ in ours.named_parameters()} == {name for name, _ in theirs.named_parameters()}
    optimizers = [torch.optim.SGD(module.parameters(), 0.1) for module in (ours, theirs)]
    for _ in range(3):
        x = torch.randn(4, 3, 4, 4)
        for module, optimizer in zip((ours, theirs), optimizers, strict=True):
            optimizer.zero_grad()
            module(x).square().sum().backward()
            optimizer.step()
    for name, tensor in theirs.named_parameters():
        torch.testing.assert_close(ours.state_dict()[name], tensor, rtol=1e-4, atol=1e-5)


def test_from_torch_carries_every_value_back_and_leaves_the_original_alone():
    _, model = small()
    before = model.fingerprint()
    module = to_torch(model)
    assert from_torch(module, model).fingerprint() == before
    with torch.no_grad():
        for tensor in module.state_dict().values():
            if tensor.is_floating_point():
                tensor.mul_(1.25)
    trained = from_torch(module, model)
    x = torch.randn(3, 3, 8, 8)
    assert relative(run(open_session(trained), x.numpy())[0], module(x).detach().numpy()) < 1e-5
    assert relative(run(open_session(model), x.numpy())[0], module(x).detach().numpy()) > 1e-3
    assert model.fingerprint() == before


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda module: setattr(module.head, "weight", nn.Parameter(torch.zeros(5, 3))), "head.weight.*5, 3.*5, 128"),
        (lambda module: module.half(), "float16.*FLOAT"),
        (lambda module: delattr(module.head, "bias"), "no tensor 'head.bias'"),
    ],
)
def test_from_torch_names_the_tensor_that_does_not_fit(damage, sentence):
    _, model = small()
    module = to_torch(model)
    damage(module)
    with pytest.raises(UsageError, match=sentence):
        from_torch(module, model)


NAMES = ["a", "a.b", "train", "graph", "class", "w/kernel:0", "c..d", "1.2", '"q', "onnx::Add_3", "x", "b[0]"]


@pytest.mark.parametrize("name", NAMES)
def test_any_name_works(name):
    _check_names([name])


def test_names_that_are_in_one_another_s_way_work():
    _check_names(NAMES)
    _check_names(NAMES[::-1])


def _check_names(names: list[str]) -> None:
    weights = [
        ir.Value(name=name, const_value=ir.tensor(np.full(4, i + 1, np.float32), name=name))
        for i, name in enumerate(names)
    ]
    for value in weights:
        value.shape, value.dtype = value.const_value.shape, value.const_value.dtype
    x = current = ir.Value(name="input_x", shape=ir.Shape(["N", 4]), type=ir.TensorType(ir.DataType.FLOAT))
    nodes = []
    for i, value in enumerate(weights):
        nodes.append(ir.node("Mul", [current, value]))
        current = nodes[-1].outputs[0]
        current.name = f"product_{i}"
    inner = ir.Graph([x], [current], nodes=nodes, initializers=weights, opset_imports={"": 20}, name="g")
    model = Model(ir.Model(inner, ir_version=9))
    module = copy.deepcopy(to_torch(model))
    assert set(module.state_dict()) == set(names)
    doubled = {name: 2 * tensor for name, tensor in module.state_dict().items()}
    module.load_state_dict(doubled)
    expected = np.prod([2.0 * (i + 1) for i in range(len(names))])
    np.testing.assert_allclose(module(torch.ones(3, 4)).detach().numpy(), np.full((3, 4), expected), rtol=1e-5)
    back = from_torch(module, model).weights()
    assert all((back[name] == 2 * (i + 1)).all() for i, name in enumerate(names))


def test_what_is_trained_and_what_is_not():
    model = graph(
        "a = MatMul(x, w)\n b = Add(a, bias)\n c = Mul(b, half)\n d = Clip(c, low)\n e = PRelu(d, slope)\n"
        "y = Reshape(e, target)",
        weights="float[4, 4] w = {1,0,0,0,0,1,0,0,0,0,1,0,0,0,0,1}, float[4] bias = {1,2,3,4}, float half = {0.5},"
        "float low = {-9}, float[1] slope = {0.1}, int64[2] target = {-1, 4}",
    )
    assert trained_names(model) == {"w", "bias", "slope"}
    module = to_torch(model)
    assert set(dict(module.named_parameters())) == {"w", "bias", "slope"}
    assert set(module.state_dict()) == set(model.weights())


def test_a_folded_attention_mask_is_not_trained_even_after_saving():
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 4)
            self.layer_scale = nn.Parameter(torch.ones(4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            mask = torch.zeros(4).masked_fill(torch.arange(4) > 1, -100.0) + 0.5
            return self.linear(x) * self.layer_scale + mask

    model = export_module(Masked(), torch.randn(2, 4))
    again = Model.from_proto(onnx.load_from_string(model.to_bytes()))
    trained = {"linear.weight", "linear.bias", "layer_scale"}
    assert trained_names(model) == trained_names(again.copy()) == trained


def test_shape_arithmetic_does_not_read_tensors_back_from_the_device():
    """Meta tensors have no data: a shape that depended on one, as on a GPU's, would fail here."""
    model = parse(
        '<ir_version: 8, opset_import: ["": 20]> g (float[N, 3, 4] x) => (float[A, B] y)'
        "<int64[1] minus = {-1}, int64[1] two = {2}, int64 zero = {0}, int64 one = {1}, float[1, 4] w = {1, 2, 3, 4}>"
        "{ s = Shape(x)\n n = Gather(s, zero)\n axis = Identity(two)\n double = Mul(n, one)\n"
        "rows = Unsqueeze(double, axes)\n shape = Concat <axis = 0> (rows, minus)\n flat = Reshape(x, shape)\n"
        "order = Range(zero, n, one)\n picked = Gather <axis = 0> (flat, order)\n"
        "like = Shape(picked)\n zeros = ConstantOfShape(like)\n y = Add(picked, zeros) }".replace(
            "rows = Unsqueeze(double, axes)", "nil = Constant <value = int64[1] {0}> ()\n rows = Unsqueeze(double, nil)"
        )
    )
    x = torch.randn(5, 3, 4)
    module = to_torch(model)
    assert torch.equal(module(x), x.reshape(5, 12))
    result = module.to("meta")(torch.empty(5, 3, 4, device="meta"))
    assert (result.device.type, result.shape) == ("meta", (5, 12))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_runs_and_trains_on_a_gpu():
    _, model = small()
    module = to_torch(model)
    x = torch.randn(4, 3, 8, 8)
    expected = module(x)
    module.cuda()
    torch.testing.assert_close(module(x.cuda()).cpu(), expected, rtol=1e-3, atol=1e-3)
    module.train()(x.cuda()).sum().backward()


def test_bf16_autocast_trains_close_to_float32():
    _, model = small()
    module = to_torch(model).train()
    x = torch.randn(4, 3, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        y = module(x)
    assert y.dtype == torch.bfloat16
    y.float().square().sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in module.parameters())
    assert relative(y.detach().float().numpy(), module(x).detach().numpy()) < 0.05


def test_channels_last_gives_the_same_numbers():
    _, model = small()
    module = to_torch(model)
    x = torch.randn(4, 3, 8, 8)
    expected = module(x)
    module.to(memory_format=torch.channels_last)
    torch.testing.assert_close(module(x.to(memory_format=torch.channels_last)), expected, rtol=1e-5, atol=1e-5)


def test_a_deep_copy_shares_nothing():
    _, model = small()
    module = to_torch(model).train()
    twin = copy.deepcopy(module)
    x = torch.randn(4, 3, 8, 8)
    torch.testing.assert_close(twin(x), module(x))
    before = copy.deepcopy(twin.state_dict())
    with torch.no_grad():
        module.get_parameter("head.weight").zero_()
    module(x)
    assert twin.training
    assert all(torch.equal(before[name], value) for name, value in twin.state_dict().items())


def test_dropout_drops_in_training_alone_and_keeps_the_mean():
    model = graph("y = Dropout(x, ratio)", weights="float ratio = {0.25}")
    module, x = to_torch(model), torch.ones(5000, 4)
    assert torch.equal(module(x), x)
    torch.manual_seed(0)
    y = module.train()(x)
    assert y.unique().tolist() == pytest.approx([0, 4 / 3])
    assert y.mean().item() == pytest.approx(1, abs=0.02)


def test_several_inputs_and_outputs():
    model = parse(
        '<ir_version: 8, opset_import: ["": 20]> g (float[N] a, float[N] b) => (float[N] s, float[N] d)'
        "{ s = Add(a, b)\n d = Sub(a, b) }"
    )
    s, d = to_torch(model)(torch.tensor([3.0]), torch.tensor([1.0]))
    assert (s.item(), d.item()) == (4, 2)


@pytest.mark.parametrize(
    "body",
    [
        "a = Unsqueeze <axes = [1]> (x)\n b = Squeeze <axes = [1]> (a)\n y = ReduceSum <axes = [1], keepdims = 1> (b)",
        "a, b = Split <axis = 1, split = [1, 3]> (x)\n y = Concat <axis = 1> (b, a)",
        "a = Unsqueeze <axes = [2]> (x)\n b = Softmax (a)\n y = Squeeze <axes = [2]> (b)",
        "y = Dropout <ratio = 0.3> (x)",
    ],
)
def test_operands_that_were_attributes_in_opset_11(body):
    model = graph(body, opset=11)
    x = np.random.default_rng(0).standard_normal((3, 4), dtype=np.float32)
    np.testing.assert_allclose(to_torch(model)(torch.from_numpy(x)), run(open_session(model), x)[0], rtol=1e-5)


def test_a_quantized_model_reads_as_onnxruntime_runs_it():
    model = graph(
        "q = QuantizeLinear(x, s, z)\n d = DequantizeLinear(q, s, z)\n wd = DequantizeLinear <axis = 1> (w, ws)\n"
        "y = MatMul(d, wd)",
        weights="float s = {0.02}, uint8 z = {128}, int8[4, 2] w = {1, -2, 3, 4, -5, 6, 127, -128},"
        "float[2] ws = {0.1, 0.2}",
    )
    x = np.random.default_rng(0).standard_normal((16, 4), dtype=np.float32) * 2
    np.testing.assert_allclose(
        to_torch(model)(torch.from_numpy(x)), run(open_session(model, optimize=False), x)[0], rtol=1e-5
    )
    assert trained_names(model) == set()


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ("<'tail'> y = NonMaxSuppression(x, x)", "NonMaxSuppression.*not covered"),
        (
            "c = Constant <value = bool {1}> ()\n y = If (c) <then_branch = g () => (float[N, 4] t) { t = Relu(x) },"
            "else_branch = h () => (float[N, 4] e) { e = Abs(x) }>",
            "If.*control flow",
        ),
        ("y = com.example.Fancy(x)", r"com\.example\.Fancy.*not covered"),
        ("y = Relu <leak = 0.1> (x)", "attribute 'leak'"),
    ],
)
def test_what_is_not_covered_is_refused_with_the_node_s_name(body, sentence):
    model = graph(body.replace("<'tail'> ", ""))
    model.graph.graph[-1].name = "tail"
    with pytest.raises(UsageError, match=rf"node 'tail'.*{sentence}"):
        to_torch(model)


def _roundtrip():
    path = Path(__file__).parents[2] / "benchmarks" / "torch_roundtrip.py"
    spec = importlib.util.spec_from_file_location("torch_roundtrip", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "name",
    [
        "squeezenet1_1",
        "resnet18",
        pytest.param("mobilenet_v3_small", marks=pytest.mark.slow),
        pytest.param("shufflenet_v2_x0_5", marks=pytest.mark.slow),
        pytest.param("regnet_y_400mf", marks=pytest.mark.slow),
        pytest.param("mnasnet0_5", marks=pytest.mark.slow),
        pytest.param("efficientnet_b0", marks=pytest.mark.slow),
        pytest.param("swin_t", marks=pytest.mark.slow),
    ],
)
def test_torchvision_networks_run_train_and_come_back(name):
    row = _roundtrip().check(name)
    assert row["difference"] < 1e-4
    assert row["difference_trained"] < 1e-4
    assert row["unchanged"] == []
