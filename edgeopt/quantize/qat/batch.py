"""A graph of fixed batch size, for batches of any size: integer-only tiers have no dynamic shapes, training wants many
samples at once."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from edgeopt.errors import StageFailed
from edgeopt.model.model import Model
from edgeopt.model.passes.edit import add_constant, constant_of
from edgeopt.train.objectives import first_output

__all__ = ["check_batches", "free_batch"]

TOLERANCE = 1e-3
"""Of the outputs' largest magnitude: batches of another size are summed in another order."""


def free_batch(model: Model) -> Model:
    """A copy in which a constant Reshape that keeps dim 0 takes it from its input, whatever it is."""
    changed = model.copy()
    for node in changed.graph.graph:
        target = constant_of(node.inputs[1]) if node.op_type == "Reshape" else None
        source = node.inputs[0].shape if target is not None and node.inputs[0] is not None else None
        if target is None or not target.size or not source or source[0] != target[0]:
            continue
        shape = np.array([0, *target[1:]], np.int64)
        node.replace_input_with(1, add_constant(changed.graph.graph, f"{node.name}.batch_free", shape))
    return changed


def check_batches(module: nn.Module, x: torch.Tensor) -> None:
    """Raise StageFailed unless `module` answers a batch of two as it answers its samples one by one.

    `x` [1, ...] is one sample as the module takes it.
    """
    if not _batches(module, x):
        raise StageFailed(
            "the graph is fixed to its batch size in a way that training cannot undo",
            where="qat",
            fix="quantize without --qat, or export the model with a dynamic batch",
        )


@torch.no_grad()
def _batches(module: nn.Module, x: torch.Tensor) -> bool:
    other = x.flip(-1)
    try:
        alone = torch.cat([first_output(module(sample)) for sample in (x, other)])
        together = first_output(module(torch.cat([x, other])))
    except RuntimeError:  # shapes that do not fit
        return False
    if together.shape != alone.shape:
        return False
    return bool((together - alone).abs().max() <= TOLERANCE * alone.abs().max())
