"""Back to torch: a user prunes their own module with the record and loads the pruned weights as a state dict."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from edgeopt.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["Entry", "apply_pruning", "compose"]

Entry = dict[str, Any]
"""{"name": parameter, "axis": int, "kept": [indices along that axis, ascending]}."""


def compose(first: Sequence[Entry], second: Sequence[Entry]) -> list[Entry]:
    """The record of pruning by `first` and then by `second`, over the parameters that `first` is over."""
    kept = {(entry["name"], entry["axis"]): entry["kept"] for entry in first}
    for entry in second:
        place = entry["name"], entry["axis"]
        before = kept.get(place)
        kept[place] = entry["kept"] if before is None else [before[index] for index in entry["kept"]]
    return [{"name": name, "axis": axis, "kept": list(indices)} for (name, axis), indices in kept.items()]


def apply_pruning(module: nn.Module, record: Iterable[Mapping[str, Any]]) -> None:
    """Cut `module`'s parameters and buffers in place, as a pruning's record says, and the widths its layers state.

    `record` holds {"name", "axis", "kept"} over the original's parameters (`pruned.json`). Afterwards the module loads
    the pruned model's initializers as its state dict. Layers of torch.nn follow, attention included
    (`nn.MultiheadAttention`, and modules built like timm's `Attention`: a `qkv` layer, `num_heads`, `head_dim`). A
    forward in Python that counts channels by itself (a channel shuffle, a hard-coded view) cannot be mended from
    outside: a UserWarning names these modules. Raises UsageError naming what does not fit; the module is then
    unchanged.
    """
    entries = _read(record)
    tensors = _tensors(module)
    unknown = [name for name in entries if name not in tensors and "." not in name]
    for name, axes in entries.items():
        if name not in unknown:
            _check(module, tensors, name, axes)

    from edgeopt.prune.widths import layers_to_adapt, state_widths

    known = {name: axes for name, axes in entries.items() if name not in unknown}
    by_layer = _by_layer(module, tensors, known)
    counted = layers_to_adapt(module, set(by_layer))
    state_widths(module, by_layer)
    _cut(module, tensors, known)
    if counted or unknown:
        warnings.warn(_advice(counted, unknown), UserWarning, stacklevel=2)


Cuts = dict[str, dict[int, list[int]]]
"""Tensor -> axis -> the indices that stay."""


def _read(record: Iterable[Mapping[str, Any]]) -> Cuts:
    """The record by tensor. Raises UsageError where an entry is no entry."""
    found: Cuts = {}
    for entry in record:
        try:
            found.setdefault(str(entry["name"]), {})[int(entry["axis"])] = [int(index) for index in entry["kept"]]
        except (KeyError, TypeError, ValueError) as error:
            raise UsageError(
                f"{str(entry)[:80]} is no entry of a record",
                fix='give a list of {"name", "axis", "kept"}, as pruned.json',
            ) from error
    return found


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, those that are shared under each of their names."""
    parameters = dict(module.named_parameters(remove_duplicate=False))
    return parameters | dict(module.named_buffers(remove_duplicate=False))


def _check(module: nn.Module, tensors: Mapping[str, Tensor], name: str, axes: dict[int, list[int]]) -> None:
    tensor = tensors.get(name)
    if tensor is None:
        raise UsageError(
            f"{type(module).__name__} has no parameter {name!r}", fix="take the module the model came from"
        )
    for axis, kept in axes.items():
        if not 0 <= axis < tensor.ndim or not kept or min(kept) < 0 or max(kept) >= tensor.shape[axis]:
            raise UsageError(f"{name!r} has shape {list(tensor.shape)}, which axis {axis} of the record does not fit")


def _by_layer(module: nn.Module, tensors: Mapping[str, Tensor], entries: Cuts) -> dict[str, Cuts]:
    """Path of a layer -> its own tensors that are cut, those that it shares with a named one included."""
    by_tensor = {id(tensors[name]): axes for name, axes in entries.items()}
    found: dict[str, Cuts] = {}
    for name, tensor in tensors.items():
        axes = by_tensor.get(id(tensor))
        if axes is not None:
            path, _, own = name.rpartition(".")
            found.setdefault(path, {})[own] = axes
    return found


def _cut(module: nn.Module, tensors: Mapping[str, Tensor], entries: Cuts) -> None:
    """Put cut tensors in place; a tensor that several layers share stays shared."""
    import torch
    from torch import nn

    new: dict[int, Tensor] = {}
    for name, axes in entries.items():
        old = tensors[name]
        left = old.detach()
        for axis, kept in axes.items():
            left = left.index_select(axis, torch.tensor(kept, device=old.device))
        left = left.clone()
        new[id(old)] = nn.Parameter(left, requires_grad=old.requires_grad) if isinstance(old, nn.Parameter) else left
    for name, tensor in tensors.items():
        if id(tensor) in new:
            path, _, own = name.rpartition(".")
            setattr(module.get_submodule(path), own, new[id(tensor)])


def _advice(counted: Sequence[str], unknown: Sequence[str]) -> str:
    parts = []
    if counted:
        parts.append(
            "these modules move or count channels in their forward: compare outputs, and adapt code that has "
            f"widths as numbers: {', '.join(counted)}"
        )
    if unknown:
        parts.append(f"these tensors are no parameters of the module, its code makes them: {', '.join(unknown)}")
    return "; ".join(parts)
