"""One run of quantization-aware training: hold some images out, train, keep what is better."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from edgeopt.data import Split
from edgeopt.model.model import Model
from edgeopt.model.to_torch import from_torch, to_torch
from edgeopt.quantize.qat.batch import check_batches, free_batch
from edgeopt.quantize.qat.graph import Training, to_integers, to_training
from edgeopt.quantize.qat.objective import choose_objective
from edgeopt.stage import Context, StageResult
from edgeopt.train.fit import fit
from edgeopt.train.objectives import first_output

if TYPE_CHECKING:
    from edgeopt.quantize.qat.spec import Qat

__all__ = ["Run"]

HELD_OUT_SHARE = 0.1
HELD_OUT_LIMIT = 1024
FEWEST_FOR_HOLDING_OUT = 100
"""Of fewer training images all are trained on, and judged by."""


@dataclass(frozen=True)
class Score:
    """How a network does on the held-out images."""

    loss: float
    agreement: float
    """Share of the images that it answers as the float model does."""
    accuracy: float | None
    """Fraction of 1; None without labels."""


class Run:
    """The network in its training form, its teacher, its data."""

    def __init__(self, settings: Qat, floating: Model, quantized: Model, context: Context) -> None:
        self.settings, self.quantized, self.context = settings, quantized, context
        split = context.need_data("qat").train
        self.held, self.images = hold_out(split, context.seed)
        self.training = to_training(free_batch(quantized), floating)
        self.module = to_torch(self.training.model)
        self.teacher = to_torch(free_batch(floating))
        self.objective = choose_objective(settings, floating, self.teacher, split)

    def train(self) -> StageResult:
        """The better of the two models, and the facts."""
        settings, context = self.settings, self.context
        check_batches(self.teacher, torch.from_numpy(self.held.read(np.arange(1)).x))
        before = self._score()
        history = fit(
            self.module,
            self.images,
            settings,
            self.objective,
            seed=context.seed,
            progress=context.progress,
            scratch=context.scratch,
            label="quantization-aware training",
        )
        after = self._score()
        kept = after.loss < before.loss
        if not kept:
            context.progress.warn(
                f"training did not help (held-out loss {before.loss:.4g} before, {after.loss:.4g} after): "
                "the model stays as it was"
            )
        facts: dict[str, Any] = {
            "epochs": len(history),
            "kept": kept,
            "held_out_images": len(self.held),
            "before": vars(before),
            "after": vars(after),
            "trained_scales": len(self.training.scales),
            "history": history,
        }
        return StageResult(self._written() if kept else self.quantized, facts)

    def _written(self) -> Model:
        """The Q/DQ graph with what the module has learned."""
        trained = Training(from_torch(self.module, self.training.model), self.training.scales, self.training.constants)
        return to_integers(trained, self.quantized)

    @torch.no_grad()
    def _score(self) -> Score:
        device = next(self.module.parameters()).device
        self.teacher.to(device)
        self.objective.to(device)
        losses, agree, correct = 0.0, 0, 0
        for batch in self.held.batches(self.settings.batch_size):
            x = torch.from_numpy(batch.x).to(device)
            labels = None if batch.y is None else torch.from_numpy(batch.y).to(device)
            outputs = first_output(self.module(x))
            losses += float(self.objective(outputs, x, labels)) * len(x)
            answers = _answers(outputs)
            agree += int((answers == _answers(first_output(self.teacher(x)))).sum())
            correct += int((answers == labels).sum()) if labels is not None else 0
        count = len(self.held)
        return Score(losses / count, agree / count, None if self.held.labels is None else correct / count)


def hold_out(split: Split, seed: int) -> tuple[Split, Split]:
    """(held out, left for training): a tenth of the samples, at most HELD_OUT_LIMIT, balanced over the classes."""
    if len(split) < FEWEST_FOR_HOLDING_OUT:
        return split, split
    from edgeopt.data.split import balanced_order

    order = balanced_order(len(split), split.labels, np.random.default_rng(seed))
    count = min(HELD_OUT_LIMIT, int(len(split) * HELD_OUT_SHARE))
    return split.take(np.sort(order[:count])), split.take(np.sort(order[count:]))


def _answers(outputs: Tensor) -> Tensor:
    return outputs.flatten(1).argmax(1)
