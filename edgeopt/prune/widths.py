"""Widths that torch layers keep as numbers beside their tensors, and forwards that count channels by themselves."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from edgeopt.prune.attention import PrunedAttention, heads_left

__all__ = ["layers_to_adapt", "state_widths"]

Axes = Mapping[int, list[int]]
Cut = Mapping[str, Axes]
"""A layer's own tensor -> axis -> the indices that stay."""

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
COUNTS = re.compile(r"\b(?:view|reshape|chunk|split|unflatten|rearrange|tensor_split|shuffle\w*|\w+_shuffle)\(")
"""Calls that go wrong where channels are counted by a number, or fall into parts of equal size."""


def state_widths(module: nn.Module, cuts: Mapping[str, Cut]) -> None:
    """Set the numbers of every layer that loses something, before its tensors are cut. Raises UsageError, and has
    then set nothing.
    """
    for path, cut in cuts.items():
        layer = module.get_submodule(path)
        if isinstance(layer, nn.MultiheadAttention):
            PrunedAttention.check(layer, cut)
    for path, cut in cuts.items():
        _state(module.get_submodule(path), cut)
    for path, layer in module.named_modules():
        _state_heads(layer, cuts.get(f"{path}.qkv" if path else "qkv", {}))
        conv = cuts.get(f"{path}.conv_proj" if path else "conv_proj", {})
        if hasattr(layer, "hidden_dim") and 0 in conv.get("weight", {}):  # torchvision's VisionTransformer
            layer.hidden_dim = len(conv["weight"][0])


def layers_to_adapt(module: nn.Module, cut: set[str]) -> list[str]:
    """Paths of modules, none of torch.nn's, whose code moves channels about and that own a layer that is cut."""
    found = []
    for path, layer in module.named_modules():
        if isinstance(layer, nn.ChannelShuffle) and cut:
            found.append(f"{path} (ChannelShuffle)")
        elif not type(layer).__module__.startswith("torch.nn") and _owns(layer, path, cut) and _moves(type(layer)):
            found.append(f"{path or 'the module itself'} ({type(layer).__name__})")
    return found


def _state(layer: nn.Module, cut: Cut) -> None:
    weight = cut.get("weight", {})
    if isinstance(layer, nn.MultiheadAttention):
        PrunedAttention.adapt(layer, cut)
    elif isinstance(layer, CONVOLUTIONS):
        layer.groups, layer.out_channels = _groups(weight, layer.out_channels, layer.groups)
        layer.in_channels = len(weight.get(1, range(layer.weight.shape[1]))) * layer.groups
    elif isinstance(layer, TRANSPOSED):
        layer.groups, layer.in_channels = _groups(weight, layer.in_channels, layer.groups)
        layer.out_channels = len(weight.get(1, range(layer.weight.shape[1]))) * layer.groups
    elif isinstance(layer, nn.Linear):
        layer.out_features = len(weight.get(0, range(layer.out_features)))
        layer.in_features = len(weight.get(1, range(layer.in_features)))
    elif isinstance(layer, nn.GroupNorm):
        layer.num_groups, layer.num_channels = _groups(weight, layer.num_channels, layer.num_groups)
    elif isinstance(layer, nn.LayerNorm | nn.RMSNorm):
        layer.normalized_shape = tuple(
            len(weight.get(axis, range(size))) for axis, size in enumerate(layer.normalized_shape)
        )
    elif isinstance(layer, nn.Embedding | nn.EmbeddingBag):
        layer.num_embeddings = len(weight.get(0, range(layer.num_embeddings)))
        layer.embedding_dim = len(weight.get(1, range(layer.embedding_dim)))
    elif isinstance(layer, nn.PReLU):
        layer.num_parameters = len(weight.get(0, range(layer.num_parameters)))
    elif isinstance(layer, _NormBase):
        layer.num_features = len((weight or cut.get("running_mean", {})).get(0, range(layer.num_features)))


def _groups(axes: Axes, channels: int, groups: int) -> tuple[int, int]:
    """(groups, channels) that are left of the axis that groups divide: a group that lost everything is gone."""
    kept = axes.get(0)
    if kept is None:
        return groups, channels
    left = torch.zeros(channels, dtype=torch.bool)
    left[kept] = True
    return int(left.reshape(groups, -1).any(dim=1).sum()), len(kept)


def _state_heads(layer: nn.Module, qkv: Cut) -> None:
    """timm's attentions: `num_heads` and `head_dim` follow the rows of `qkv` that stay.

    The softmax's scale stays that of the original; torch's fused attention takes it from the width, so where that has
    changed, the module is told to multiply by its own `scale`.
    """
    kept = qkv.get("weight", {}).get(0)
    heads, width = getattr(layer, "num_heads", None), getattr(layer, "head_dim", None)
    projection = getattr(layer, "qkv", None)
    if kept is None or not isinstance(heads, int) or not isinstance(projection, nn.Linear):
        return
    rows = projection.weight.shape[0]
    if rows % (3 * heads) or (width is not None and rows != 3 * heads * width):
        return
    left = heads_left(kept, rows, heads)
    if left is None or left.query_width != left.value_width:
        return
    layer.num_heads = left.heads  # type: ignore[assignment]
    if width is not None:
        layer.head_dim = left.query_width  # type: ignore[assignment]
    if hasattr(layer, "attn_dim"):
        layer.attn_dim = left.heads * left.query_width  # type: ignore[assignment]
    if left.query_width != rows // (3 * heads) and hasattr(layer, "fused_attn"):
        layer.fused_attn = False  # type: ignore[assignment]


def _owns(layer: nn.Module, path: str, cut: set[str]) -> bool:
    """Whether a layer that is cut is the module itself, or lies under it with torch.nn's containers between."""
    if path in cut:
        return True
    for name, child in layer.named_children():
        below = f"{path}.{name}" if path else name
        if type(child).__module__.startswith("torch.nn") and _owns(child, below, cut):
            return True
    return False


def _moves(kind: type[nn.Module]) -> bool:
    """Whether a method of the class, `__init__` apart, calls one of `COUNTS`."""
    for name, function in vars(kind).items():
        if inspect.isfunction(function) and name != "__init__":
            try:
                text = inspect.getsource(function)
            except (OSError, TypeError):
                continue  # typed into a console
            if COUNTS.search(text):
                return True
    return False
