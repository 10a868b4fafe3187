"""Samples as a graph is fed with them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from edgeopt.data import Split
from edgeopt.model import Model

__all__ = ["feeds_for"]


def feeds_for(model: Model, split: Split, size: int) -> Iterator[dict[str, np.ndarray]]:
    """Every sample of `split` by input name, `size` at a time or as many as the model's fixed batch; a short last batch
    of a fixed one repeats samples of its own. Raises UsageError when the samples have nothing for an input."""
    names = [info.name for info in model.inputs]
    fixed = next((info.shape[0] for info in model.inputs if info.shape and isinstance(info.shape[0], int)), None)
    for batch in split.batches(fixed if isinstance(fixed, int) else size):
        feeds = batch.feeds(names)
        if isinstance(fixed, int):
            feeds = {name: np.resize(array, (fixed, *array.shape[1:])) for name, array in feeds.items()}
        yield feeds
