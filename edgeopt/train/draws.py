"""What chance decides, as pure functions of the seed and the place in the run: no random state has to be kept.

The order of an epoch comes from `order_of`, everything drawn within a step (augmentation, mixing, dropout) from
generators seeded by `reseed`. So a run goes on in the middle of an epoch and ends with the same weights.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from lightning_fabric import Fabric

__all__ = ["order_of", "reseed"]


def order_of(seed: int, view: int, count: int, batch: int) -> np.ndarray:
    """int64 [count // batch, batch]: a shuffle of 0..count-1; what does not fill a batch is left out."""
    steps = count // batch
    shuffled = np.random.default_rng([seed, view]).permutation(count)
    return shuffled[: steps * batch].reshape(steps, batch)


def reseed(fabric: Fabric, seed: int, view: int, step: int) -> None:
    """Seed what this process draws in a step."""
    mixed = np.random.SeedSequence([seed, view, step, fabric.global_rank]).generate_state(1, np.uint64)
    number = int(mixed[0] >> 1)
    # not torch.manual_seed, which asks after every kind of accelerator: 0.1 ms a step
    torch.default_generator.manual_seed(number)
    if fabric.device.type == "cuda":
        torch.cuda.manual_seed(number)
