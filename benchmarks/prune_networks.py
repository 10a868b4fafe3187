"""The networks of `prune.py zoo`, beside those of `coverage_networks.py`: all of torchvision, families of timm."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import coverage_networks as shared
import numpy as np
import torch
from coverage_networks import Network, images, scripted
from torch import nn

from edgeopt.model.export import export_module
from edgeopt.model.load import save_model

__all__ = ["ZOO"]

SIDES = {"alexnet": 224, "inception_v3": 139, "maxvit_t": 224, "vgg": 224, "vit": 224}
"""Pixels by the start of a name, where a network does not take the 64 that spare most of the time."""


def side_of(name: str) -> int:
    return next((side for start, side in SIDES.items() if name.startswith(start)), 64)


def classification() -> list[Network]:
    import torchvision
    import torchvision.models as zoo

    names = zoo.list_models(module=torchvision.models)
    return [images(n, "classification", shared.classifier(n), 3, side_of(n), side_of(n)) for n in names]


def segmentation() -> list[Network]:
    import torchvision.models as zoo

    names = zoo.list_models(module=zoo.segmentation)
    return [images(n, "segmentation", shared.segmenter(n), 3, 64, 64) for n in names]


def video() -> list[Network]:
    import torchvision.models as zoo

    sizes = {"s3d": (16, 224, 224), "mvit_v1_b": (16, 224, 224), "mvit_v2_s": (16, 224, 224)}  # theirs, and fixed
    names = zoo.list_models(module=zoo.video)
    return [images(n, "video", shared.classifier(n), 3, *sizes.get(n, (8, 64, 64))) for n in names]


def detection() -> list[Network]:
    import torchvision.models as zoo

    names = zoo.list_models(module=zoo.detection)
    return [scripted(n, "detection", shared.detector(n), {"input": (3, 320, 320)}) for n in names]


def timm() -> list[Network]:
    import prune_timm
    import timm

    known = set(timm.list_models())
    return [_lively(prune_timm.build_lively, n, side) for n, side in prune_timm.TIMM_NETWORKS if n in known]


def _lively(build: Callable[[str, int], nn.Module], name: str, side: int) -> Network:
    """As `coverage_networks.images`, with weights that are all random; its norms settle on four images of noise."""

    def inputs(count: int, seed: int) -> dict[str, np.ndarray]:
        return {"input": shared.smooth_images(count, 3, side, side, seed=seed)}

    def module() -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
        noise = torch.randn(4, 3, side, side, generator=torch.Generator().manual_seed(2))
        return shared.settle(build(name, side), (noise,)), (noise[:2],)

    def make(path: Path) -> None:
        built, (batch,) = module()
        save_model(export_module(built, batch), path)

    return Network(f"timm:{name}", "timm", make, inputs, module)


GROUPS = {
    "classification": classification, "segmentation": segmentation, "video": video, "detection": detection,
    "timm": timm,
}  # fmt: skip


def _all() -> dict[str, Network]:
    found: list[Network] = []
    for group in GROUPS.values():
        try:
            found += group()
        except ImportError:
            continue  # timm is an extra
    return {network.name: network for network in found}


ZOO = _all()
