"""Nearness is what its two formulas say, and answers of another shape count as none."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from arrays import samples_of

from edgeopt.model import Model
from edgeopt.quantize.nearness import nearness
from edgeopt.tiers import load_tier


def network(text: str) -> Model:
    proto = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 17]> g (float[n, 4] x) => (float[m, 4] y) {text}'
    )
    return Model.from_proto(proto)


SAME = network("{ y = Identity(x) }")


def test_both_figures_are_those_of_their_formulas() -> None:
    x = np.random.default_rng(0).standard_normal((6, 4)).astype(np.float32)
    x[3] *= 100  # all the power there is
    other = network(
        "{ low = Constant<value_float = -1.0>()  high = Constant<value_float = 1.0>() y = Clip(x, low, high) }"
    )
    found = nearness(SAME, other, samples=samples_of(x), tier=load_tier("any"))[0]
    signal, noise = np.square(x).sum(axis=1), np.square(x - np.clip(x, -1, 1)).sum(axis=1)
    each = np.minimum(10 * np.log10(signal / np.maximum(noise, 1e-30)), 150)
    assert found.together_db == pytest.approx(10 * np.log10(signal.sum() / noise.sum()), abs=1e-4)
    assert found.apart_db == pytest.approx(each.mean(), abs=1e-4)
    assert found.decibels == pytest.approx((found.together_db + found.apart_db) / 2)
    assert found.apart_db > found.together_db + 3


def test_answers_of_another_shape_count_as_none() -> None:
    other = network("{ two = Constant<value_ints = [2, 1]>() y = Tile(x, two) }")
    x = np.ones((3, 4), np.float32)
    found = nearness(SAME, other, SAME, samples=samples_of(x), tier=load_tier("any"))
    assert (found[0].together_db, found[0].apart_db) == (0.0, 0.0)
    assert found[1].decibels == 150
