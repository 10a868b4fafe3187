"""Optimizers a recipe can name. `build` takes torch's fused kernels: one call a step for all tensors."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from edgeopt.spec import Spec

if TYPE_CHECKING:
    import torch

__all__ = ["AdamW", "Optimizer", "Sgd"]


class Sgd(Spec):
    """Stochastic gradient descent with (Nesterov) momentum."""

    default_lr: ClassVar[float] = 0.1
    default_weight_decay: ClassVar[float] = 5e-4

    kind: Literal["sgd"] = "sgd"
    momentum: float = Field(0.9, ge=0, lt=1, description="share of the last step that goes on")
    nesterov: bool = Field(True, description="look ahead along the momentum; needs momentum above 0")

    def build(self, parameters: Iterable[torch.Tensor], lr: float, weight_decay: float) -> torch.optim.Optimizer:
        """The optimizer for `parameters`; matrices and kernels decay, biases and norms do not."""
        import torch

        nesterov = self.nesterov and self.momentum > 0
        groups = _decay_groups(parameters, weight_decay)
        return torch.optim.SGD(groups, lr=lr, momentum=self.momentum, nesterov=nesterov, fused=True)


class AdamW(Spec):
    """Adam with decoupled weight decay (Loshchilov and Hutter, arXiv 1711.05101)."""

    default_lr: ClassVar[float] = 2e-3
    default_weight_decay: ClassVar[float] = 0.05

    kind: Literal["adamw"] = "adamw"
    betas: tuple[float, float] = Field((0.9, 0.999), description="decay of the first and second moment")

    def build(self, parameters: Iterable[torch.Tensor], lr: float, weight_decay: float) -> torch.optim.Optimizer:
        """The optimizer for `parameters`; matrices and kernels decay, biases and norms do not."""
        import torch

        groups = _decay_groups(parameters, weight_decay)
        return torch.optim.AdamW(groups, lr=lr, betas=self.betas, fused=True)


Optimizer = Annotated[Sgd | AdamW, Field(discriminator="kind")]


def _decay_groups(parameters: Iterable[torch.Tensor], weight_decay: float) -> list[dict[str, Any]]:
    """Two parameter groups: what decays (two dimensions or more) and what does not."""
    tensors = [tensor for tensor in parameters if tensor.requires_grad]
    decayed = [tensor for tensor in tensors if tensor.ndim > 1]
    free = [tensor for tensor in tensors if tensor.ndim <= 1]
    groups = [(decayed, weight_decay), (free, 0.0)]
    return [{"params": params, "weight_decay": decay} for params, decay in groups if params]
