"""Tensors of a module under any name an ONNX file may give them.

A name with dots becomes nested submodules, as in torch. A name that torch cannot have as an attribute path
(`train`, `a..b`, `a` beside `a.b`) lives under a stand-in, and `state_dict()` and `load_state_dict()` say the
real one.
"""

from __future__ import annotations

import keyword
from collections.abc import Mapping
from functools import cache
from typing import Any

import torch
from torch import fx, nn

__all__ = ["free_path", "place", "rename_state"]


def free_path(root: nn.Module, name: str, stand_in: str) -> str:
    """`name` where an attribute path of that name can be made under `root`, else `stand_in`."""
    *path, leaf = name.split(".")
    if not all(_is_plain(part) for part in (*path, leaf)):
        return stand_in
    owner: Any = root
    for part in path:
        owner = getattr(owner, part, None)
        if owner is None:
            return name
        if not isinstance(owner, nn.Module):
            return stand_in
    return stand_in if hasattr(owner, leaf) else name


def place(root: nn.Module, path: str, tensor: torch.Tensor) -> None:
    """Register a parameter, or a buffer if it is no `nn.Parameter`, making the submodules on the way."""
    *parents, leaf = path.split(".")
    owner = root
    for part in parents:
        if part not in owner._modules:
            owner.add_module(part, nn.Module())
        owner = owner.get_submodule(part)
    if isinstance(tensor, nn.Parameter):
        owner.register_parameter(leaf, tensor)
    else:
        owner.register_buffer(leaf, tensor)


def rename_state(module: nn.Module, names: Mapping[str, str]) -> None:
    """Have the state dict say `names[path]` for the tensor at `path`."""
    if names:
        module._register_state_dict_hook(_Rename(dict(names)))
        module._register_load_state_dict_pre_hook(_Rename({name: path for path, name in names.items()}).before)


class _Rename:
    """A state-dict hook that survives deepcopy and pickle."""

    def __init__(self, names: dict[str, str]) -> None:
        self.names = names

    def __call__(self, module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
        self.before(state, prefix)

    def before(self, state: dict[str, Any], prefix: str, *_: Any) -> None:
        for old, new in self.names.items():
            if prefix + old in state:
                state[prefix + new] = state.pop(prefix + old)


def _is_plain(part: str) -> bool:
    """Whether `module.<part>`, or getattr with it in double quotes, can be written and means a tensor of ours."""
    writable = part.isprintable() and not keyword.iskeyword(part) and not set(part) & set('"\\')
    return bool(part) and writable and part not in _reserved()


@cache
def _reserved() -> frozenset[str]:
    """What a GraphModule has of its own."""
    return frozenset(dir(fx.GraphModule(nn.Module(), fx.Graph())))
