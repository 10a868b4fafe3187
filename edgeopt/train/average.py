"""Exponential moving average of the weights (as in Tarvainen and Valpola, arXiv 1703.01780)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from edgeopt.train.shards import fill, local

__all__ = ["Average"]


class Average:
    """Follows a module's parameters and float buffers with `decay` a step; it starts faster than that."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay, self.steps = decay, 0
        self.values = {name: tensor.clone() for name, tensor in module.state_dict().items()}

    @property
    def state(self) -> dict[str, object]:
        """For the checkpoint."""
        return {"steps": self.steps, "values": self.values}

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Take in the weights after one step."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        floats, latest = [], []
        for name, tensor in module.state_dict().items():
            if tensor.is_floating_point():
                floats.append(local(self.values[name]))
                latest.append(local(tensor))
            else:
                self.values[name].copy_(tensor)
        torch._foreach_lerp_(floats, latest, 1 - decay)

    def load(self, state: dict[str, object]) -> None:
        """Take over what `state` gave."""
        steps, values = state["steps"], state["values"]
        assert isinstance(steps, int)
        assert isinstance(values, dict)
        self.steps = steps
        for name, tensor in values.items():
            assert isinstance(tensor, Tensor)
            fill(self.values[name], tensor)

    @torch.no_grad()
    def copy_to(self, module: nn.Module) -> None:
        """Give the average to the module."""
        module.load_state_dict(self.values)

    @contextmanager
    def lent_to(self, module: nn.Module) -> Iterator[None]:
        """The module has the average inside, and its own weights again, to the bit, after."""
        own = {name: tensor.clone() for name, tensor in module.state_dict().items()}
        self.copy_to(module)
        try:
            yield
        finally:
            module.load_state_dict(own)
