"""The networks of `prune.py zoo`, beside those of `coverage_networks.py`: all of torchvision, families of timm."""

from __future__ import annotations

from collections.abc import Callable

import coverage_networks as shared
from coverage_networks import Network, images, scripted
from torch import nn

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
    import timm

    def build(name: str) -> Callable[[], nn.Module]:
        return lambda: timm.create_model(name, pretrained=False, exportable=True)

    known = set(timm.list_models())
    return [images(f"timm:{n}", "timm", build(n), 3, side, side) for n, side in FAMILIES.items() if n in known]


FAMILIES: dict[str, int] = {
    "beit_base_patch16_224": 224, "botnet26t_256": 256, "caformer_s18": 128, "cait_xxs24_224": 224, "coat_tiny":
    224, "coatnet_nano_rw_224": 224, "convit_tiny": 224, "convmixer_768_32": 128, "convnext_atto": 128,
    "convnextv2_atto": 128, "cpubone_nano": 128, "crossvit_tiny_240": 240, "cs3darknet_focus_s": 128,
    "cspnext_tiny": 128, "davit_tiny": 128, "deit_tiny_patch16_224": 224, "densenet121": 128, "dla46x_c": 128,
    "dpn48b": 128, "eca_nfnet_l0": 128, "edgenext_xx_small": 128, "efficientformer_l1": 224,
    "efficientformerv2_s0": 224, "efficientnet_b0": 128, "efficientvim_m1": 128, "efficientvit_b0": 128,
    "efficientvit_m0": 224, "ese_vovnet19b_slim_dw": 128, "eva02_tiny_patch14_224": 224, "fasternet_t0": 128,
    "fastvit_t8": 128, "focalnet_tiny_srf": 128, "gcvit_xxtiny": 224, "gernet_s": 128, "ghostnet_100": 128,
    "gmlp_ti16_224": 224, "halonet26t": 256, "hardcorenas_a": 128, "hgnetv2_b0": 128, "hiera_tiny_224": 224,
    "hrnet_w18_small": 128, "iformer_t": 128, "inception_next_atto": 128, "inception_v4": 139, "lcnet_035": 128,
    "lcnetv2_small": 128, "legacy_seresnet18": 128, "legacy_xception": 139, "levit_128s": 224, "lowformer_b0":
    128, "maxvit_pico_rw_256": 256, "mixer_s32_224": 224, "mixnet_s": 128, "mobilenetv2_035": 128,
    "mobilenetv3_small_050": 128, "mobilenetv4_conv_small": 128, "mobilevit_xxs": 128, "mvitv2_tiny": 224,
    "naflexvit_base_patch16_gap": 224, "nest_tiny": 224, "nextvit_small": 128, "nf_regnet_b0": 128, "pit_ti_224":
    224, "poolformerv2_s12": 128, "pvt_v2_b0": 128, "rdnet_tiny": 128, "regnetx_002": 128, "regnety_002": 128,
    "repghostnet_050": 128, "repvgg_a0": 128, "repvit_m1": 128, "res2next50": 128, "resmlp_12_224": 224,
    "resnest14d": 128, "resnet10t": 128, "resnetv2_18": 128, "rexnet_100": 128, "selecsls42": 128,
    "sequencer2d_s": 224, "shvit_s1": 128, "skresnet18": 128, "starnet_s050": 128, "swiftformer_xs": 224,
    "swin_tiny_patch4_window7_224": 224, "swinv2_cr_tiny_224": 224, "test_mambaout": 160, "tf_efficientnet_lite0":
    128, "tiny_vit_5m_224": 224, "tnt_s_legacy_patch16_224": 224, "tresnet_m": 128, "twins_svt_small": 224,
    "visformer_tiny": 224, "vit_relpos_small_patch16_224": 224, "vit_tiny_patch16_224": 224,
    "vit_tiny_r_s16_p8_224": 224, "vitamin_small_224": 224, "volo_d1_224": 224, "xception41p": 139,
    "xcit_nano_12_p16_224": 224,
}  # fmt: skip
"""A small network of each family of timm that has one: name -> pixels."""

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
