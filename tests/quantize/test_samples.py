"""Samples: what each input of a model is fed, in order, in batches of any size."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from arrays import split_of

from edgeopt.data import Split
from edgeopt.data.named import NamedSource
from edgeopt.errors import UsageError
from edgeopt.model import Model
from edgeopt.quantize.samples import Samples, samples_of


@pytest.fixture
def two() -> Split:
    ids = np.arange(30).reshape(10, 3)
    return Split(NamedSource({"ids": ids, "mask": ids % 2 == 0}), np.arange(10), None, None)


def test_every_sample_comes_once_in_order_by_input_name(two: Split) -> None:
    batches = list(Samples(two, ("mask", "ids")).batches(4))
    assert [len(batch["ids"]) for batch in batches] == [4, 4, 2]
    assert set(batches[0]) == {"mask", "ids"}
    np.testing.assert_array_equal(
        np.concatenate([batch["ids"] for batch in batches]), two.source.read(two.index)["ids"]
    )
    assert batches[0]["mask"].dtype == bool


def test_one_array_goes_to_the_only_input(resnet_model: Model, make_images: Callable[..., np.ndarray]) -> None:
    x = make_images(9)
    samples = samples_of(resnet_model, split_of(x), 6, seed=3)
    assert len(samples) == 6
    (batch,) = samples.batches(8)
    assert list(batch) == ["x"]
    assert all(any(np.array_equal(row, one) for one in x) for row in batch["x"])


def test_any_pass_sees_the_same_and_take_is_its_beginning(resnet_model: Model, two: Split) -> None:
    samples = Samples(two.sample(8, 1), ("ids", "mask"))
    once, again = (np.concatenate([batch["ids"] for batch in samples.batches(3)]) for _ in range(2))
    np.testing.assert_array_equal(once, again)
    (few,) = samples.take(5).batches(10)
    np.testing.assert_array_equal(few["ids"], once[:5])
    assert len(samples.take(100)) == 8


def test_an_input_without_an_array_is_named(two: Split) -> None:
    with pytest.raises(UsageError, match="nothing for the input 'types'"):
        next(Samples(two, ("ids", "types")).batches(2))
    with pytest.raises(UsageError, match="2 inputs \\(ids, mask\\), the samples are one array"):
        next(Samples(split_of(np.zeros((2, 3))), ("ids", "mask")).batches(2))
