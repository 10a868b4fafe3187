"""The record on networks as people have them: the pruned module answers as the pruned ONNX model does."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest

from edgeopt.errors import UsageError
from edgeopt.model import Model
from edgeopt.model.export import export_module
from edgeopt.model.runtime import open_session, run
from edgeopt.prune import Prune, apply_pruning
from edgeopt.stage import Context

torch = pytest.importorskip("torch")
nn = torch.nn


class Layers(nn.Module):
    """Every kind of layer that states its width, in one network."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(3, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16), nn.PReLU(16))
        self.depthwise = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.InstanceNorm2d(16, affine=True))
        self.wide = nn.Conv2d(16, 32, 1)
        self.grouped = nn.Sequential(nn.Conv2d(32, 32, 3, padding=1, groups=8), nn.GroupNorm(4, 32), nn.ReLU())
        self.up = nn.ConvTranspose2d(32, 24, 2, stride=2)
        self.norm = nn.LayerNorm(24)
        self.mix = nn.Linear(24, 40)
        self.scale = nn.RMSNorm(40)
        self.head = nn.Linear(40, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.up(self.grouped(self.wide(self.depthwise(self.down(x)))))
        x = torch.relu(self.mix(self.norm(x.mean((2, 3)))))
        return self.head(self.scale(x))


class Words(nn.Module):
    """An embedding, and attention over it."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 32)
        self.encoder = nn.TransformerEncoderLayer(32, 4, 48, batch_first=True)
        self.head = nn.Linear(32, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.encoder(self.embedding(x)).mean(1))


def vision_transformer() -> nn.Module:
    from torchvision.models import VisionTransformer

    return VisionTransformer(16, 8, 2, 4, 32, 48, num_classes=5)


def timm_transformer() -> nn.Module:
    timm = pytest.importorskip("timm")
    return timm.create_model(
        "vit_tiny_patch16_224", img_size=16, patch_size=8, embed_dim=32, depth=2, num_heads=4, num_classes=5
    )


def mobilenet() -> nn.Module:
    from torchvision.models.mobilenetv3 import InvertedResidualConfig, MobileNetV3

    blocks = [
        InvertedResidualConfig(16, 3, 32, 24, True, "RE", 2, 1, 0.5),
        InvertedResidualConfig(24, 5, 48, 24, True, "HS", 1, 1, 0.5),
    ]
    return MobileNetV3(blocks, 64, num_classes=5)


@dataclass(frozen=True)
class Pruned:
    original: Model
    model: Model
    record: list[dict[str, object]]


def prune(module: nn.Module, x: torch.Tensor, target: str = "params=-35%") -> Pruned:
    torch.manual_seed(0)
    for tensor in module.parameters():  # zeros, such as timm's biases, would agree whatever is done to them
        nn.init.normal_(tensor, 0.5 if tensor.ndim == 1 else 0.0, 0.3)
    original = export_module(module.eval(), x)
    stage = Prune.model_validate({"target": target, "ranking": "local", "finetune": None})
    result = stage.apply(original, Context())
    return Pruned(original, result.model, json.loads(result.files["pruned.json"]))


def load(module: nn.Module, model: Model) -> None:
    state = {name: torch.from_numpy(array.copy()) for name, array in model.weights().items()}
    own = module.state_dict()
    missing = module.load_state_dict({n: t for n, t in state.items() if n in own}, strict=False).missing_keys
    assert all(name.endswith("num_batches_tracked") for name in missing)


@pytest.mark.parametrize("make", [Layers, vision_transformer, timm_transformer, mobilenet])
def test_the_module_answers_as_the_pruned_model(make: Callable[[], nn.Module]) -> None:
    module = make()
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    pruned = prune(module, x)
    before = sum(tensor.numel() for tensor in module.parameters())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        apply_pruning(module, pruned.record)
    assert sum(tensor.numel() for tensor in module.parameters()) <= 0.66 * before
    load(module, pruned.model)
    expected = run(open_session(pruned.model), x.numpy())[0]
    with torch.no_grad():
        np.testing.assert_allclose(module(x).numpy(), expected, rtol=1e-3, atol=1e-4)
    for layer in module.modules():  # what layers state of themselves is true: a copy built from it takes the weights
        if isinstance(layer, nn.Conv2d):
            assert layer.weight.shape[:2] == (layer.out_channels, layer.in_channels // layer.groups)
        if isinstance(layer, nn.Linear):
            assert layer.weight.shape == (layer.out_features, layer.in_features)


def test_attention_that_loses_heads_and_width_answers_as_the_pruned_model() -> None:
    module = Words()
    tokens = torch.tensor([[1, 2, 3, 4, 5, 6], [6, 5, 4, 3, 2, 10]])
    pruned = prune(module, tokens, "params=-55%")
    apply_pruning(module, pruned.record)
    load(module, pruned.model)
    expected = run(open_session(pruned.model), tokens.numpy())[0]
    assert module.encoder.self_attn.num_heads < 4
    with torch.no_grad():
        np.testing.assert_allclose(module(tokens).numpy(), expected, rtol=1e-3, atol=1e-4)


def test_pruned_attention_is_the_attention_of_torch_where_nothing_leaves() -> None:
    from edgeopt.prune.attention import PrunedAttention

    torch.manual_seed(0)
    for batch_first in (True, False):
        layer = nn.MultiheadAttention(16, 4, batch_first=batch_first).eval()
        x = torch.randn(3, 5, 16) if batch_first else torch.randn(5, 3, 16)
        padding = torch.zeros(3, 5, dtype=torch.bool)
        padding[1, 3:] = True
        causal = torch.ones(5, 5, dtype=torch.bool).triu(1)
        arguments = {"key_padding_mask": padding, "attn_mask": causal, "average_attn_weights": False}
        wanted = layer(x, x, x, **arguments)
        alone = layer(x[0], x[0], x[0])
        PrunedAttention.adapt(layer, {})
        for found, expected in zip(
            [*layer(x, x, x, **arguments), *layer(x[0], x[0], x[0])], [*wanted, *alone], strict=True
        ):
            torch.testing.assert_close(found, expected)


class Shuffled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 1)
        self.shuffle = nn.ChannelShuffle(2)
        self.second = nn.Conv2d(16, 5, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.shuffle(self.first(x))
        return self.second(x.reshape(x.shape[0], 16, 16, 16)).mean((2, 3))


def test_code_that_counts_channels_is_named() -> None:
    module = Shuffled()
    record = [
        {"name": "first.weight", "axis": 0, "kept": [0, 1, 2, 8]},
        {"name": "first.bias", "axis": 0, "kept": [0, 1, 2, 8]},
    ]
    with pytest.warns(UserWarning, match=r"the module itself \(Shuffled\), shuffle \(ChannelShuffle\)"):
        apply_pruning(module, record)


def test_tied_weights_stay_tied() -> None:
    module = nn.Sequential(nn.Embedding(9, 8), nn.Linear(8, 9, bias=False))
    module[1].weight = module[0].weight
    apply_pruning(module, [{"name": "0.weight", "axis": 1, "kept": [1, 2, 5]}])
    assert module[0].weight is module[1].weight
    assert (module[0].embedding_dim, module[1].in_features) == (3, 3)


def test_attention_that_cannot_be_pruned_in_place_is_refused_and_nothing_is_changed() -> None:
    module = nn.Sequential(nn.Linear(8, 8), nn.MultiheadAttention(8, 2))
    rows = [row for row in range(24) if row != 3]  # one head of the query narrower than the other
    record = [{"name": "0.weight", "axis": 1, "kept": [0, 1]}, {"name": "1.in_proj_weight", "axis": 0, "kept": rows}]
    with pytest.raises(UsageError, match="heads of several widths"):
        apply_pruning(module, record)
    assert module[0].in_features == 8
    assert module[0].weight.shape == (8, 8)


@pytest.mark.parametrize("entry", [{"name": "0.weight", "axis": 0}, {"name": "0.weight", "axis": "x", "kept": [0]}, 3])
def test_what_is_no_record_is_refused(entry: object) -> None:
    with pytest.raises(UsageError, match="no entry of a record"):
        apply_pruning(nn.Sequential(nn.Linear(2, 2)), [entry])  # type: ignore[list-item]
