"""Samples as a model is fed with them: by input name, in batches that it takes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from edgeopt.data.data import Split
from edgeopt.model import Model

__all__ = ["feeds_for"]


def feeds_for(model: Model, split: Split, size: int) -> Iterator[dict[str, np.ndarray]]:
    """Every sample of `split` by input name, `size` at a time or as many as the model's fixed batch; a short last batch
    of a fixed one repeats samples of its own. Raises UsageError when the samples have nothing for an input."""
    names, fixed = [info.name for info in model.inputs], model.fixed_batch
    for batch in split.batches(fixed or size):
        feeds = batch.feeds(names)
        if fixed is not None:
            feeds = {name: np.resize(array, (fixed, *array.shape[1:])) for name, array in feeds.items()}
        yield feeds
