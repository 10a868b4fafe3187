"""Limits as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from edgeopt.report.limits import Limits, parse_count, parse_fraction, parse_ms, parse_ratio

whole = st.integers(0, 10**12)
decimal = st.decimals(0, 10**6, places=3).map(lambda number: f"{number:f}")


@given(whole, st.sampled_from([("", 1), ("k", 10**3), ("M", 10**6), ("g", 10**9)]))
def test_counts(number: int, unit: tuple[str, int]) -> None:
    assert parse_count(f" {number} {unit[0]}") == pytest.approx(number * unit[1])
    assert parse_count(number) == number


@given(st.integers(0, 100_000))
def test_percentages_and_fractions_are_one(thousandths: int) -> None:
    assert parse_fraction(f"{thousandths / 1000}%") == pytest.approx(thousandths / 100_000)
    assert parse_fraction(thousandths / 100_000) == thousandths / 100_000


@given(decimal)
def test_durations_and_ratios(number: str) -> None:
    assert parse_ms(f"{number}ms") == parse_ms(number) == float(number)
    assert parse_ms(f"{number} s") == pytest.approx(1000 * float(number))
    assert parse_ms(f"{number}us") == pytest.approx(float(number) / 1000)
    assert parse_ratio(f"{number}x") == parse_ratio(number) == float(number)


@given(st.text(max_size=12), st.sampled_from([parse_count, parse_fraction, parse_ms, parse_ratio]))
def test_anything_else_is_a_value_error(text: str, parse: object) -> None:
    try:
        value = parse(text)  # type: ignore[operator]
    except ValueError:
        return
    assert value >= 0


@pytest.mark.parametrize(
    "bad", [{"accuracy": "101%"}, {"size": True}, {"drop": "2%"}, {"latency": "-5ms"}, {"sise": 1}]
)
def test_what_is_not_a_limit_is_refused(bad: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Limits.model_validate(bad)


def test_a_limit_reads_back_from_json_as_it_was() -> None:
    limits = Limits.model_validate(
        {"size": "64KiB", "drop": "0.5pt", "accuracy": "97.5%", "latency": "250us", "macs": "1.5M", "speedup": "2x"}
    )
    assert limits.size == 65_536
    assert limits.latency == 0.25
    assert Limits.model_validate_json(limits.model_dump_json()) == limits
