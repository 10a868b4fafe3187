"""The networks that `coverage.py` tries: name, group, and how each becomes an .onnx file and inputs for it."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from edgeopt.model.export import export_module
from edgeopt.model.load import save_model

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

__all__ = ["NETWORKS", "Network", "smooth_images"]

Feeds = dict[str, np.ndarray]
SIDE = 128


@dataclass(frozen=True)
class Network:
    """`make(folder/NAME.onnx)` writes the file; `inputs(count, seed)` are samples for it, by input name.

    `module()` is the torch module that becomes the file, and a batch for it; None where several make the file.
    """

    name: str
    group: str
    make: Callable[[Path], None]
    inputs: Callable[[int, int], Feeds]
    module: Callable[[], tuple[nn.Module, tuple[torch.Tensor, ...]]] | None = None


def smooth_images(*shape: int, seed: int = 0) -> np.ndarray:
    """float32 images, normalized: noise of falling amplitude at 4, 8, 16 ... pixels, as natural images have it."""
    random = np.random.default_rng(seed)
    images = np.zeros(shape, np.float32)
    *lead, height, width = shape
    for scale in (2, 4, 8, 16, 32):
        coarse = random.standard_normal((*lead, -(-height // scale), -(-width // scale)), dtype=np.float32)
        fine = np.repeat(np.repeat(coarse, scale, -2), scale, -1)[..., :height, :width]
        images += fine * scale / 32
    return images


def settle(module: nn.Module, batch: tuple[torch.Tensor, ...]) -> nn.Module:
    """Give every BatchNormalization the statistics of one batch: with the initial ones random weights explode."""
    norms = [layer for layer in module.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
    for layer in norms:
        layer.reset_running_stats()
        layer.momentum = None
        layer.train()
    if norms:
        with torch.no_grad():
            module(*batch)
    return module.eval()


def seeded(build: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    module = build().eval()
    for name, parameter in module.named_parameters():
        if "head" in name and name.endswith("weight") and not parameter.any():
            nn.init.normal_(parameter, std=0.02)  # torchvision's vit starts with a head of zeros
    return module


def images(name: str, group: str, build: Callable[[], nn.Module], *shape: int) -> Network:
    """A module that takes one batch of images [n, *shape], through edgeopt's own exporter."""

    def inputs(count: int, seed: int) -> Feeds:
        return {"input": smooth_images(count, *shape, seed=seed)}

    def module() -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
        batch = torch.from_numpy(inputs(4, 9)["input"])
        return settle(seeded(build), (batch,)), (batch[:2],)

    def make(path: Path) -> None:
        built, (batch,) = module()
        save_model(export_module(built, batch), path)

    return Network(name, group, make, inputs, module)


def scripted(
    name: str,
    group: str,
    build: Callable[[], nn.Module],
    shapes: Mapping[str, tuple[int, ...]],
    *,
    batch: int = 1,
    opset: int = 17,
    dynamo: bool = False,
) -> Network:
    """A module through torch's own exporters, at a fixed batch."""

    def inputs(count: int, seed: int) -> Feeds:
        return {key: smooth_images(count, *shape, seed=seed + i) for i, (key, shape) in enumerate(shapes.items())}

    def module() -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
        example = tuple(torch.from_numpy(array) for array in inputs(batch, 9).values())
        settling = tuple(torch.from_numpy(array) for array in inputs(max(batch, 2), 9).values())
        built = seeded(build)
        return settle(built, settling) if group != "detection" else built, example

    def make(path: Path) -> None:
        built, example = module()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                built,
                example,
                str(path),
                dynamo=dynamo,
                input_names=list(shapes),
                opset_version=opset,
                external_data=False,
            )

    return Network(name, group, make, inputs, module)


class Part(nn.Module):
    """A network that returns a dict or list, reduced to what a runtime gives back."""

    def __init__(self, inner: nn.Module, pick: Callable[[object], object]) -> None:
        super().__init__()
        self.inner, self.pick = inner, pick

    def forward(self, *x: torch.Tensor) -> object:
        return self.pick(self.inner(*x))


class Segmenter(nn.Module):
    """A torchvision segmentation network: the scores [n, classes, height, width]."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.inner(x)["out"]
        return scores


class Detector(nn.Module):
    """A torchvision detector for one image: boxes, labels, scores."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        found = self.inner([x[0]])[0]
        return found["boxes"], found["labels"], found["scores"]


def torchvision_networks() -> list[Network]:
    small = {
        "alexnet": 224, "convnext_tiny": 128, "densenet121": 128, "efficientnet_b0": 128, "efficientnet_v2_s": 128,
        "googlenet": 128, "inception_v3": 139, "maxvit_t": 224, "mnasnet0_5": 128, "mnasnet1_0": 128,
        "mobilenet_v2": 128, "mobilenet_v3_large": 128, "mobilenet_v3_small": 128, "regnet_x_400mf": 128,
        "regnet_y_400mf": 128, "resnet18": 128, "resnet50": 128, "resnext50_32x4d": 128,
        "shufflenet_v2_x0_5": 128, "shufflenet_v2_x1_0": 128, "squeezenet1_1": 128, "swin_t": 128, "swin_v2_t": 128,
        "vgg11_bn": 128, "vit_b_16": 224, "wide_resnet50_2": 128,
    }  # fmt: skip
    found = [images(name, "classification", classifier(name), 3, side, side) for name, side in small.items()]
    for name in ("fcn_resnet50", "deeplabv3_mobilenet_v3_large", "deeplabv3_resnet50", "lraspp_mobilenet_v3_large"):
        found.append(images(name, "segmentation", segmenter(name), 3, 128, 128))
    for name in ("ssdlite320_mobilenet_v3_large", "ssd300_vgg16", "fasterrcnn_mobilenet_v3_large_320_fpn",
                 "retinanet_resnet50_fpn", "fcos_resnet50_fpn", "maskrcnn_resnet50_fpn"):  # fmt: skip
        found.append(scripted(name, "detection", detector(name), {"input": (3, 320, 320)}))
    for name in ("r3d_18", "mc3_18", "r2plus1d_18", "s3d", "mvit_v1_b"):
        frames, side = (16, 224) if name in ("s3d", "mvit_v1_b") else (8, 64)
        found.append(images(name, "video", classifier(name), 3, frames, side, side))
    for name in ("raft_small",):
        pair = {"first": (3, 128, 128), "second": (3, 128, 128)}
        found.append(scripted(name, "optical flow", _flow(name), pair))
    return found


def classifier(name: str) -> Callable[[], nn.Module]:
    import torchvision.models as zoo

    return lambda: zoo.get_model(name, weights=None, **({"init_weights": True} if "net_v1" in name else {}))


def segmenter(name: str) -> Callable[[], nn.Module]:
    import torchvision.models as zoo

    return lambda: Segmenter(zoo.get_model(name, weights=None, weights_backbone=None))


def detector(name: str) -> Callable[[], nn.Module]:
    import torchvision.models as zoo

    return lambda: Detector(zoo.get_model(name, weights=None, weights_backbone=None))


def _flow(name: str) -> Callable[[], nn.Module]:
    import torchvision.models as zoo

    return lambda: Part(zoo.get_model(name, weights=None), lambda out: out[-1])  # type: ignore[index]


def timm_networks() -> list[Network]:
    import timm

    names = {
        "deit_tiny_patch16_224": 224, "efficientvit_b0": 224, "ghostnet_100": 128, "mixer_s32_224": 224,
        "mobileone_s0": 128, "mobilevit_xxs": 256, "pit_ti_224": 224, "poolformer_s12": 128, "repvgg_a0": 128,
        "resnest14d": 128, "tf_efficientnet_lite0": 128, "hardcorenas_a": 128, "fastvit_t8": 128,
        "mobilenetv4_conv_small": 128, "tinynet_e": 128, "edgenext_xx_small": 256, "lcnet_050": 128,
        "levit_128s": 224, "xcit_nano_12_p16_224": 224, "eca_nfnet_l0": 128,
    }  # fmt: skip
    known = set(timm.list_models())

    def build(name: str) -> Callable[[], nn.Module]:
        return lambda: timm.create_model(name, pretrained=False, exportable=True)

    return [images(f"timm:{name}", "timm", build(name), 3, side, side) for name, side in names.items() if name in known]


def text_networks() -> list[Network]:
    from encoder import encoder, ids

    def make(path: Path) -> None:
        module = encoder(width=256, layers=4)
        save_model(export_module(module, module.example_inputs, dynamic_axes=module.dynamic_axes), path)

    def make_scripted(path: Path) -> None:
        module = encoder(width=256, layers=4)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                module, tuple(module.example_inputs.values()), str(path), dynamo=False, opset_version=14,
                input_names=list(module.example_inputs), dynamic_axes=module.dynamic_axes,
            )  # fmt: skip

    def inputs(count: int, seed: int) -> Feeds:
        return ids(count, seed=seed)

    class Torch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            layer = nn.TransformerEncoderLayer(128, 4, 512, batch_first=True, dropout=0.0)
            self.inner = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.inner(x)

    return [
        Network("bert (own exporter)", "text", make, inputs),
        Network("bert (TorchScript, opset 14)", "text", make_scripted, inputs),
        images("nn.TransformerEncoder", "text", Torch, 24, 128),
    ]


def opset_networks() -> list[Network]:
    import torchvision.models as zoo

    found = []
    for opset in (11, 12, 13, 14, 15, 16, 17, 18, 19, 20):
        shapes = {"input": (3, 128, 128)}
        found.append(
            scripted(f"mobilenet_v3_small, opset {opset}", "opset", zoo.mobilenet_v3_small, shapes, opset=opset)
        )
    for opset in (21, 22, 23, 24):
        shapes = {"input": (3, 128, 128)}
        found.append(
            scripted(
                f"mobilenet_v3_small, opset {opset}", "opset", zoo.mobilenet_v3_small, shapes, opset=opset, dynamo=True
            )
        )
    return found


def _all() -> dict[str, Network]:
    found: list[Network] = []
    for group in (torchvision_networks, text_networks, opset_networks, timm_networks):
        try:
            found += group()
        except ImportError:
            continue  # timm is an extra
    return {network.name: network for network in found}


NETWORKS = _all()
