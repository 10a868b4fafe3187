"""Training images that are held out, and what the network makes of them after each epoch.

They come from the training split: the test images are for the report alone, and a training that stopped or chose by
them would make its accuracy look better than it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from edgeopt.data import Split
from edgeopt.data.split import split_by_class
from edgeopt.errors import UsageError
from edgeopt.train.feed import Feed, prepare
from edgeopt.train.meter import hit_rate
from edgeopt.train.objectives import Located, first_output
from edgeopt.train.settings import Augment

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from edgeopt.train.job import Job

__all__ = ["Validation", "best_epoch", "hold_out"]

_STREAM = 0x5A11DA7E
"""Sets the draw apart from every other that starts from the same seed."""


def hold_out(split: Split, share: float, seed: int) -> np.ndarray:
    """int64, sorted: positions of `share` of the split, of each class where there are classes; none for 0."""
    if not share:
        return np.arange(0)
    return split_by_class(len(split), split.labels, share, np.random.default_rng([seed, _STREAM]))[1]


class Validation:
    """The held-out samples of a job, without augmentation. Raises UsageError when a process would have none."""

    def __init__(self, job: Job, fabric: Fabric, feed: Feed) -> None:
        self.job, self.fabric, self.feed = job, fabric, feed
        world = fabric.world_size
        if len(job.held) < world:
            raise UsageError(
                f"{len(job.held)} held-out images for {world} processes", where=job.label, fix="hold out more"
            )
        # equally many batches in every process: they compute together
        batches = -(-len(job.held) // job.batch)
        own = np.array_split(job.held, world)[fabric.global_rank]
        self.rows = np.array_split(own, min(batches, len(job.held) // world))

    @torch.no_grad()
    def measure(self, network: nn.Module) -> dict[str, float]:
        """`validation_loss`, the objective's mean, and with class numbers `validation_accuracy`, a fraction of 1."""
        network.eval()
        sums, has_hits = torch.zeros(3, device=self.fabric.device), False
        for rows, (samples, labels) in zip(self.rows, self.feed.batches(self.rows), strict=True):
            x = prepare(samples, self.job.split.preprocess, Augment())
            if isinstance(self.job.objective, Located):
                self.job.objective.locate(0, rows)
            outputs = network(x)
            with self.fabric.autocast():
                loss = self.job.objective(outputs, x, labels)
            hits = hit_rate(first_output(outputs), labels)
            has_hits = hits is not None
            sums += len(rows) * torch.stack([loss.float(), loss.new_zeros(()) if hits is None else hits, loss * 0 + 1])
        loss_sum, hit_sum, count = self.fabric.all_reduce(sums, reduce_op="sum").tolist()
        found = {"validation_loss": loss_sum / count}
        return found | ({"validation_accuracy": hit_sum / count} if has_hits else {})


def best_epoch(history: Sequence[Mapping[str, Any]]) -> int:
    """The epoch (from 1) that did best on the held-out images: most right answers, then the least loss, the first."""

    def score(entry: Mapping[str, Any]) -> tuple[float, float]:
        return entry.get("validation_accuracy", 0.0), -entry["validation_loss"]

    return int(max(history, key=score)["epoch"])
