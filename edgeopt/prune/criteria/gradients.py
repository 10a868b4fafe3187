"""Gradients of the loss by gates on units, from those of the weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgeopt.data import Batch, Split
from edgeopt.model import Model
from edgeopt.model.to_torch import to_torch
from edgeopt.prune.criteria.scores import input_axes, producing, reading
from edgeopt.prune.groups import Group, Slices
from edgeopt.stage import Context
from edgeopt.train.objectives import HardLabels, first_output
from edgeopt.train.stage import check_labels, ends_in_softmax

__all__ = ["squared_gates"]

BATCH = 16
"""Samples whose gradients are summed before squaring; small, as the mean over many batches tells units apart better."""


def squared_gates(model: Model, groups: Sequence[Group], split: Split, context: Context) -> list[np.ndarray]:
    """float64 [units] for each group: mean over batches of (sum of gradient times weight over the unit)^2."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    module = to_torch(model).to(device)
    weights = {name: value for name, value in module.state_dict(keep_vars=True).items() if value.requires_grad}
    parts = [_gated(model, group, weights) for group in groups]
    wanted = sorted({part.name for some in parts for part in some})
    loss = _Loss(model, split, context.seed)
    totals = [np.zeros(len(group)) for group in groups]
    context.progress.start("gradients", len(split))
    count = 0
    for batch in _batches(model, split):
        gradients = torch.autograd.grad(loss(module, batch, device), [weights[name] for name in wanted])
        products = {name: (g * weights[name].detach()) for name, g in zip(wanted, gradients, strict=True)}
        for total, some in zip(totals, parts, strict=True):
            total += np.square(_gates(some, products, len(total)))
        count += 1
        context.progress.advance(len(batch))
    return [total / max(count, 1) for total in totals]


def _gated(model: Model, group: Group, weights: Mapping[str, Tensor]) -> list[Slices]:
    """The slices over which gradient times weight is summed: those that read the unit, else those that make it."""
    readers = [part for part in reading(group, input_axes(model)) if part.name in weights]
    return readers or [part for part in producing(group, model.weights()) if part.name in weights]


def _gates(parts: Sequence[Slices], products: Mapping[str, Tensor], units: int) -> np.ndarray:
    total = np.zeros(units)
    for part in parts:
        product = products[part.name]
        others = [axis for axis in range(product.ndim) if axis != part.axis]
        along = (product.sum(others) if others else product).double().cpu().numpy()
        total += along[part.index].sum(axis=1)
    return total


class _Loss:
    """Cross-entropy with the labels or with drawn answers; a network that does not classify is taken as the mean of a
    Gaussian, from which its answers are drawn."""

    def __init__(self, model: Model, split: Split, seed: int) -> None:
        self.names = [info.name for info in model.inputs]
        self.classifies = len(model.outputs[0].shape) == 2
        if split.labels is not None and self.classifies:
            check_labels(model, split, "the criterion taylor")
        self.hard = HardLabels(probabilities=ends_in_softmax(model))
        self.rng = torch.Generator().manual_seed(seed)

    def __call__(self, module: nn.Module, batch: Batch, device: torch.device) -> Tensor:
        inputs = [torch.from_numpy(np.ascontiguousarray(x)).to(device) for x in batch.feeds(self.names).values()]
        outputs = first_output(module(*inputs)).float()
        if not self.classifies:
            noise = torch.randn(outputs.shape, generator=self.rng).to(device)
            return F.mse_loss(outputs, outputs.detach() + noise)
        labels = self._drawn(outputs) if batch.y is None else torch.from_numpy(batch.y)
        found: Tensor = self.hard(outputs, inputs[0], labels.to(device))
        return found

    def _drawn(self, outputs: Tensor) -> Tensor:
        answers = outputs.detach().cpu()
        answers = answers if self.hard.probabilities else answers.softmax(1)
        return torch.multinomial(answers, 1, generator=self.rng)[:, 0]


def _batches(model: Model, split: Split) -> Iterator[Batch]:
    """In batches of BATCH, or of the model's fixed size (a short last one is left out then)."""
    fixed = model.fixed_batch
    for batch in split.batches(fixed or BATCH):
        if fixed is None or len(batch) == fixed:
            yield batch
