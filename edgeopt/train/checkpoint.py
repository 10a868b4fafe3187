"""Checkpoints: written whole or not at all, read back only when they belong to this very run.

Random states are not in them because the loop has none, see `edgeopt.train.draws`: the position in the epoch says all.
"""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edgeopt.atomic import write_atomic

__all__ = ["SAVE_EVERY_S", "TELL_EVERY_STEPS", "fingerprint", "read_checkpoint", "write_checkpoint"]

FORMAT = 2
SAVE_EVERY_S = 120.0
"""A checkpoint is written at the end of each epoch, and inside one that takes longer than this."""
TELL_EVERY_STEPS = 20
"""Several processes agree on that every so many steps."""


def fingerprint(module: nn.Module) -> str:
    """SHA-256 of all parameters and buffers, their names, types and shapes."""
    total = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        array = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        total.update(array.numpy())
    return total.hexdigest()


def write_checkpoint(path: Path, key: str, state: dict[str, Any]) -> None:
    """Save `state` (tensors and plain values) under the run's `key`. Raises StageFailed when it cannot."""
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, "key": key, "state": state}, buffer)
    write_atomic(path, buffer.getvalue())


def read_checkpoint(path: Path, key: str) -> tuple[dict[str, Any] | None, str]:
    """The state saved under `key`, or None and why not (empty when there is no file).

    Nothing but tensors and plain values is ever unpickled.
    """
    if not path.exists():
        return None, ""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        found, state = (content["format"], content["key"]), content["state"]
    except Exception as error:  # a damaged file raises anything from EOFError to UnpicklingError
        return None, f"{path.name} is damaged ({type(error).__name__})"
    if found != (FORMAT, key):
        return None, f"{path.name} belongs to another run"
    return state, ""
