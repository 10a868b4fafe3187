"""The table of layer timings: which widths are timed, and what is said of those between."""

from __future__ import annotations

import math

import pytest

from edgeopt.prune.latency import LayerTimes, curve_widths


def blocked(lengths: tuple[int, ...]) -> float:
    """Blocks of 16, and half as much again for a width that is no multiple of 8."""
    whole = math.prod(math.ceil(length / 16) * 16 for length in lengths)
    return whole * math.prod(1.5 if length % 8 else 1.0 for length in lengths) / 1000


def test_few_widths_are_all_timed() -> None:
    assert curve_widths(32, 8).regular == (8, 16, 24, 32)
    assert curve_widths(3, 8).regular == (3,)
    assert curve_widths(48, 16).odd == {}


def test_many_widths_are_timed_at_blocks_and_at_some_of_each_other_kind() -> None:
    curve = curve_widths(512, 4)
    assert all(width % 16 == 0 for width in curve.regular)
    assert curve.regular[-1] == 512
    assert set(curve.odd) == {4, 8}
    assert all(math.gcd(width, 16) == kind for kind, widths in curve.odd.items() for width in widths)


@pytest.mark.parametrize("full", [24, 40, 72, 144, 1000])
def test_a_width_that_is_no_block_itself_lies_inside_of_the_table(full: int) -> None:
    curve = curve_widths(full, 1)
    assert curve.regular[-1] >= full
    assert LayerTimes([curve], blocked).full == pytest.approx(blocked((full,)), rel=0.12)


@pytest.mark.parametrize("width", [512, 368, 112, 256, 128, 248, 100, 300])
def test_between_timed_widths_times_are_interpolated_kind_by_kind(width: int) -> None:
    times = LayerTimes([curve_widths(512, 4), curve_widths(512, 4)], blocked)
    for lengths in ((width, 512), (512, width), (width, width)):
        assert times.at(lengths) == pytest.approx(blocked(lengths), rel=0.15)


def test_an_odd_width_is_no_faster_than_the_block_above() -> None:
    times = LayerTimes([curve_widths(512, 1)], blocked)
    assert times.at([250]) > times.at([256]) > times.at([240])


def test_widths_beyond_the_table_are_those_at_its_end() -> None:
    times = LayerTimes([curve_widths(128, 16)], blocked)
    assert times.at([8]) == times.at([16])
