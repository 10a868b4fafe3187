"""Back to torch: a user prunes their own module with the record and loads the pruned weights as a state dict."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from edgeopt.errors import UsageError

if TYPE_CHECKING:
    from torch import nn

__all__ = ["apply_pruning"]


def apply_pruning(module: nn.Module, record: Iterable[Mapping[str, Any]]) -> None:
    """Cut `module`'s parameters and buffers in place, as a pruning's record says, and the widths its layers state.

    `record` holds {"name", "axis", "kept"} over the original's parameters (`pruned.json`). Afterwards the module loads
    the pruned model's initializers as its state dict. A forward that counts channels in Python code (a channel shuffle,
    a hard-coded view) has to be adapted by hand. Raises UsageError naming what does not fit; the module is then
    unchanged.
    """
    entries = [(str(entry["name"]), int(entry["axis"]), list(entry["kept"])) for entry in record]
    for name, axis, kept in entries:
        _check(module, name, axis, kept)
    for name, axis, kept in entries:
        _cut(module, name, axis, kept)
    for layer in module.modules():
        _state_widths(layer)


def _check(module: nn.Module, name: str, axis: int, kept: list[int]) -> None:
    tensor = dict(module.state_dict(keep_vars=True)).get(name)
    if tensor is None:
        raise UsageError(
            f"{type(module).__name__} has no parameter {name!r}", fix="take the module the model came from"
        )
    if axis >= tensor.ndim or not kept or max(kept) >= tensor.shape[axis]:
        raise UsageError(f"{name!r} has shape {list(tensor.shape)}, which axis {axis} of the record does not fit")


def _cut(module: nn.Module, name: str, axis: int, kept: list[int]) -> None:
    import torch
    from torch import nn

    path, _, own = name.rpartition(".")
    layer = module.get_submodule(path)
    old = getattr(layer, own)
    new = old.detach().index_select(axis, torch.tensor(kept, device=old.device)).clone()
    if isinstance(old, nn.Parameter):
        setattr(layer, own, nn.Parameter(new, requires_grad=old.requires_grad))
    else:
        setattr(layer, own, new)


def _state_widths(layer: nn.Module) -> None:
    """Widths that layers keep as numbers beside their tensors."""
    from torch import nn
    from torch.nn.modules.batchnorm import _NormBase

    if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        _state_conv(layer)
    elif isinstance(layer, nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d):
        layer.in_channels = layer.weight.shape[0]
        layer.groups = layer.in_channels if layer.groups > 1 and layer.weight.shape[1] == 1 else layer.groups
        layer.out_channels = layer.weight.shape[1] * layer.groups
    elif isinstance(layer, nn.Linear):
        layer.out_features, layer.in_features = layer.weight.shape
    elif isinstance(layer, _NormBase) and layer.weight is not None:
        layer.num_features = layer.weight.shape[0]
    elif isinstance(layer, nn.LayerNorm) and layer.weight is not None:
        layer.normalized_shape = tuple(layer.weight.shape)


def _state_conv(layer: nn.Conv1d | nn.Conv2d | nn.Conv3d) -> None:
    """Widths from the kernel; a grouped convolution that kept the width of its groups has lost whole groups."""
    width, per_group = layer.weight.shape[1], layer.out_channels // layer.groups
    if layer.groups > 1 and width == layer.in_channels // layer.groups:
        layer.groups = layer.weight.shape[0] // per_group
    layer.out_channels, layer.in_channels = layer.weight.shape[0], width * layer.groups
