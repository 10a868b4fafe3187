"""FSDP: each process keeps a part of every parameter, its gradient and its optimizer state.

By torch's `fully_shard` (FSDP2, the successor of Zhao et al., arXiv 2304.11277) through Fabric, which runs on GPUs and
on CPUs alike. A network is one unit: its parameters are put together for a step and taken apart after it, so what is
saved is the memory of optimizer, gradients and moving average. A state is whole on its way to a file, and cut on its
way back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from lightning_fabric.strategies import ModelParallelStrategy
from lightning_fabric.strategies.launchers.multiprocessing import _MultiProcessingLauncher
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils._pytree import tree_map

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

__all__ = ["Sharded", "fill", "local", "prepare_optimizer", "restore_optimizer", "whole"]


class Sharded(ModelParallelStrategy):
    """Fabric's strategy for FSDP2, over all processes; without torchrun it spawns them."""

    def __init__(self, processes: int) -> None:
        super().__init__(_shard, data_parallel_size=processes, tensor_parallel_size=1)

    def _configure_launcher(self) -> None:
        assert self.cluster_environment is not None
        if not self.cluster_environment.creates_processes_externally:
            self._launcher = _MultiProcessingLauncher(self, start_method="spawn")


def _shard(module: nn.Module, mesh: DeviceMesh) -> nn.Module:
    from torch.distributed.fsdp import fully_shard

    fully_shard(module, mesh=mesh["data_parallel"])
    return module


def local(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor: a view of its part, or all of one that is not sharded."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(state: Any) -> Any:
    """`state` with every sharded tensor put together. All processes have to call it, in the same order."""
    return tree_map(lambda part: part.full_tensor() if isinstance(part, DTensor) else part, state)


def _cut(full: Tensor, like: Tensor) -> Tensor:
    """`full` sharded as `like` is; each process takes its part of its own copy."""
    if not isinstance(like, DTensor):
        return full
    on_device = full.to(like.device)
    return distribute_tensor(on_device, like.device_mesh, like.placements, src_data_rank=None)


@torch.no_grad()
def fill(target: Tensor, full: Tensor) -> None:
    """Copy the whole tensor `full` into `target`, whatever part of it is here."""
    target.copy_(_cut(full, target))


def prepare_optimizer(optimizer: torch.optim.Optimizer) -> None:
    """torch's fused kernels do not know sharded tensors: such an optimizer goes on without them."""
    for group in optimizer.param_groups:
        if any(isinstance(parameter, DTensor) for parameter in group["params"]):
            group["fused"] = False


def restore_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """`optimizer.load_state_dict` of a whole state: what has a parameter's shape is cut as that parameter is."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    cut = {
        number: {
            name: _cut(value, parameters[number])
            if isinstance(value, Tensor) and value.shape == parameters[number].shape
            else value
            for name, value in entries.items()
        }
        for number, entries in state["state"].items()
    }
    optimizer.load_state_dict({**state, "state": cut})
