"""Quantities as people write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeopt.units import format_bytes, parse_bytes, parse_points


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("100KB", 100_000),
        ("64KiB", 65_536),
        ("1.5 MB", 1_500_000),
        ("1234", 1234),
        (77, 77),
        ("2gib", 2 * 1024**3),
    ],
)
def test_sizes_are_read_as_written(text: str | int, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "KB", "-1KB", "1 TB2", "1,5MB", "nan", True, None])
def test_what_is_no_size_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="not a size"):
        parse_bytes(text)


@pytest.mark.parametrize(("text", "value"), [("0.5pt", 0.5), ("2 points", 2.0), ("-1pt", -1.0), (3, 3.0)])
def test_points_are_read_as_written(text: str | int, value: float) -> None:
    assert parse_points(text) == value


@pytest.mark.parametrize("text", ["2%", "", "pt", True])
def test_what_is_no_points_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="percentage points"):
        parse_points(text)


@given(st.integers(min_value=0, max_value=10**13))
def test_a_formatted_size_reads_back_within_half_a_percent(size: int) -> None:
    text = format_bytes(size)
    assert parse_bytes(text.replace(" ", "")) == pytest.approx(size, rel=0.006)
