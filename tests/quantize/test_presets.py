"""A preset fills in what was not given, and nothing else."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest

from edgeopt.quantize.calibrators import MseByImage
from edgeopt.quantize.histogram import Histogram
from edgeopt.quantize.presets import DEFAULT, PRESETS, RANGES, PresetName, fill_preset


def test_every_name_has_a_preset_that_says_what_it_costs() -> None:
    assert set(PRESETS) == set(get_args(PresetName))
    for preset in PRESETS.values():
        assert "(" in preset.description
        assert "\n" not in preset.description


@pytest.mark.parametrize("name", get_args(PresetName))
def test_every_preset_sets_the_same_fields(name: PresetName) -> None:
    assert set(PRESETS[name].settings) == {"calibrator", "rivals", "weight_scale", "transforms", "refinements"}


def test_given_fields_win() -> None:
    given = {"preset": "best", "calibrator": {"kind": "minmax"}, "refinements": [], "samples": 5}
    filled = fill_preset(given)
    assert {key: filled[key] for key in given} == given
    assert filled["transforms"] == PRESETS["best"].settings["transforms"]


def test_without_a_preset_the_default_is_filled_in_and_the_input_is_left_alone() -> None:
    given: dict[str, object] = {"samples": 5}
    assert fill_preset(given)["refinements"] == PRESETS[DEFAULT].settings["refinements"]
    assert given == {"samples": 5}


def test_an_unknown_preset_is_left_to_validation() -> None:
    assert fill_preset({"preset": "perfect"}) == {"preset": "perfect"}


def test_each_preset_does_more_than_the_one_before() -> None:
    fast, balanced, best = (PRESETS[name].settings for name in ("fast", "balanced", "best"))
    assert not fast["transforms"]
    assert not fast["refinements"]
    assert balanced["transforms"] == best["transforms"] != []
    kinds = [[entry["kind"] for entry in preset["refinements"]] for preset in (balanced, best)]
    assert kinds == [["bias_correction"], ["reconstruct"]]  # which fits biases too


def test_the_presets_ranges_clip_less_than_least_error_and_more_than_nothing() -> None:
    seen = Histogram()
    seen.count(np.random.default_rng(0).laplace(size=200_000))
    chosen = MseByImage.model_validate(RANGES).choose_range(seen, symmetric=False)
    assert MseByImage().choose_range(seen, symmetric=False).high < chosen.high < seen.high
