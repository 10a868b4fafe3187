"""The timm networks that pruning is measured on: (name, pixels of the square input), and how they are prepared.

Which: of every module of `timm.models` that registers networks, the one with the fewest parameters that is no test
network and that torch exports with the sizes named here; where a module holds several families that are built of other
parts (byobnet, efficientnet, mlp_mixer, maxxvit, metaformer, nfnet, vision_transformer ...), one of each. The input is
128 pixels, or what the network is made for where its windows or position tables ask for that. Networks of over 100
million parameters are left out, and so are those made for no one size of image (naflexvit, the encoders of language
models).
"""

from __future__ import annotations

import torch
from torch import nn

__all__ = ["TIMM_NETWORKS", "build_lively"]

# fmt: off
TIMM_NETWORKS: tuple[tuple[str, int], ...] = (
    ("beit_base_patch16_224", 224), ("botnet26t_256", 256), ("caformer_s18", 128), ("cait_xxs24_224", 224),
    ("coat_tiny", 224), ("coatnet_nano_rw_224", 224), ("convit_tiny", 224), ("convmixer_768_32", 128),
    ("convnext_atto", 128), ("convnextv2_atto", 128), ("cpubone_nano", 128), ("crossvit_tiny_240", 240),
    ("cs3darknet_focus_s", 128), ("csatv2", 128), ("cspnext_tiny", 128), ("cspresnext50", 128), ("davit_tiny", 128),
    ("deit_tiny_patch16_224", 224), ("densenet121", 128), ("dla46x_c", 128), ("dpn68", 128), ("eca_halonext26ts", 256),
    ("eca_nfnet_l0", 128), ("edgenext_xx_small", 128), ("efficientformer_l1", 224), ("efficientformerv2_s0", 224),
    ("efficientnet_b0", 128), ("efficientvim_m1", 128), ("efficientvit_b0", 128), ("efficientvit_m0", 224),
    ("ese_vovnet19b_slim_dw", 128), ("eva02_tiny_patch14_224", 224), ("fasternet_t0", 128), ("fastvit_t8", 128),
    ("focalnet_tiny_srf", 128), ("gcvit_xxtiny", 224), ("gernet_s", 128), ("ghostnet_050", 128),
    ("gmlp_ti16_224", 224), ("halonet26t", 256), ("hardcorenas_b", 128), ("hgnetv2_b0", 128), ("hiera_tiny_224", 224),
    ("hieradet_small", 256), ("hrnet_w18_small", 128), ("iformer_t", 128), ("inception_next_atto", 128),
    ("inception_resnet_v2", 139), ("inception_v3", 139), ("inception_v4", 139), ("lambda_resnet26t", 128),
    ("lcnet_035", 128), ("lcnetv2_small", 128), ("legacy_seresnet18", 128), ("legacy_xception", 128),
    ("levit_128s", 224), ("lowformer_b0", 128), ("mambaout_femto", 128), ("maxvit_pico_rw_256", 256),
    ("mixer_s32_224", 224), ("mixnet_s", 128), ("mobilenetv2_035", 128), ("mobilenetv3_small_050", 128),
    ("mobilenetv4_conv_small", 128), ("mobilenetv5_base", 256), ("mobileone_s1", 128), ("mobilevit_xxs", 128),
    ("mobilevitv2_050", 128), ("mvitv2_tiny", 224), ("nasnetalarge", 331), ("nest_tiny", 224), ("nextvit_small", 128),
    ("nf_regnet_b0", 128), ("nf_resnet26", 128), ("pit_ti_224", 224), ("pnasnet5large", 331), ("poolformer_s12", 128),
    ("poolformerv2_s12", 128), ("pvt_v2_b0", 128), ("rdnet_tiny", 128), ("regnetx_002", 128), ("regnety_002", 128),
    ("repghostnet_050", 128), ("repvgg_a0", 128), ("repvit_m1", 128), ("res2net50_26w_4s", 128), ("res2next50", 128),
    ("resmlp_12_224", 224), ("resnest14d", 128), ("resnet10t", 128), ("resnetv2_18", 128), ("resnetv2_50x1_bit", 128),
    ("rexnet_100", 128), ("samvit_base_patch16_224", 224), ("selecsls42", 128), ("sequencer2d_s", 224),
    ("shvit_s1", 128), ("skresnet18", 128), ("starnet_s050", 128), ("swiftformer_xs", 224),
    ("swin_tiny_patch4_window7_224", 224), ("swinv2_cr_tiny_224", 224), ("swinv2_tiny_window16_256", 256),
    ("tf_efficientnet_lite0", 128), ("tiny_vit_5m_224", 224), ("tnt_s_legacy_patch16_224", 224), ("tresnet_m", 128),
    ("twins_svt_small", 224), ("visformer_tiny", 224), ("vit_relpos_small_patch16_224", 224),
    ("vit_srelpos_small_patch16_224", 224), ("vit_tiny_patch16_224", 224), ("vit_tiny_r_s16_p8_224", 224),
    ("vitamin_small_224", 224), ("volo_d1_224", 224), ("xception41p", 128), ("xcit_nano_12_p8_224", 224),
)
# fmt: on


def build_lively(name: str, side: int) -> nn.Module:
    """The network with random weights (seed 0) and 1000 classes, in which nothing is constant.

    timm starts layer scales, skip gains, last norms of a block, position tables and biases at zero, one or nearly zero.
    A check on such a network would see little of what is behind them.
    """
    torch.manual_seed(0)
    module = _create(name, side).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for key, parameter in module.named_parameters():
            if parameter.numel() and bool((parameter == parameter.flatten()[0]).all()):
                _enliven(key, parameter, generator)
    return module


def _create(name: str, side: int) -> nn.Module:
    """Windows and position tables are made for `side` pixels where the network can be told."""
    import timm

    module: nn.Module
    try:
        module = timm.create_model(name, pretrained=False, exportable=True, num_classes=1000, img_size=side)
    except TypeError:  # takes any size
        module = timm.create_model(name, pretrained=False, exportable=True, num_classes=1000)
    return module


def _enliven(key: str, parameter: torch.Tensor, generator: torch.Generator) -> None:
    """Noise about the constant that it holds, in place."""
    constant = float(parameter.flatten()[0])
    if constant:
        spread = 0.5 + torch.rand(parameter.shape, generator=generator)
        parameter.copy_(spread * (constant if abs(constant) > 0.05 else 0.1))
    elif parameter.ndim < 2 or "bias" in key:
        parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    else:
        parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.02 if parameter.numel() > 1 else 0.5)
