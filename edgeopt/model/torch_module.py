"""The module that `to_torch` returns: an `fx.GraphModule` that can also be pickled.

fx pickles a GraphModule as code and traces that code again when it is read, which fails for operators that
look at shapes. This one is pickled as its ONNX model and its present tensors, so that it can be sent to
another process.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from edgeopt.model.model import Model

__all__ = ["SOURCE", "OnnxModule", "Source"]

SOURCE = "onnx_source"


@dataclass(frozen=True)
class Source:
    """What a module was made of. Models are immutable, so that copies of the module share it."""

    model: Model

    def __deepcopy__(self, memo: dict[int, Any]) -> Source:
        return self


class OnnxModule(fx.GraphModule):
    """`module.meta[SOURCE]` is its `Source`."""

    def __reduce__(self) -> tuple[Callable[..., OnnxModule], tuple[Any, ...]]:
        tensors = {name: tensor.detach() for name, tensor in self.state_dict().items()}
        trained = [parameter.requires_grad for parameter in self.parameters()]
        return _rebuild, (self.meta[SOURCE].model.to_bytes(), tensors, trained, self.training)


def _rebuild(content: bytes, tensors: dict[str, torch.Tensor], trained: list[bool], training: bool) -> OnnxModule:
    import onnx

    from edgeopt.model.to_torch import to_torch

    module = to_torch(Model.from_proto(onnx.load_from_string(content)))
    module.load_state_dict(tensors)
    for parameter, wanted in zip(module.parameters(), trained, strict=True):
        parameter.requires_grad_(wanted)
    return module.train(training)
