"""Regressions against a stored report: what is counted exactly, what is sampled with its doubt."""

from __future__ import annotations

import base64
import contextlib
from typing import Any

import pytest
from example_report import ENVIRONMENT, example_report, example_row
from hypothesis import given
from hypothesis import strategies as st

from edgeopt.errors import UsageError
from edgeopt.gate import Limits, Verdict, check_change, parse_regression
from edgeopt.report import DataRow, Report

OTHER = {"sha256": "0" * 64}


def mcu(**changes: Any) -> Report:
    return example_report(tiers=(example_row("mcu", **changes),))


def one(text: str, before: Report, after: Report, *, allow: bool = False) -> Verdict:
    (verdict,) = check_change(after, before, [parse_regression(text)], allow_uncertain=allow)
    return verdict


def right(wrong: set[int], samples: int = 1_000) -> dict[str, Any]:
    """A row that has every image right but those."""
    flags = "".join("0" if n in wrong else "1" for n in range(samples)) + "0" * (-samples % 8)
    packed = bytes(int(flags[at : at + 8], 2) for at in range(0, len(flags), 8))
    return {
        "samples": samples,
        "accuracy": 1 - len(wrong) / samples,
        "correct_bits": base64.b64encode(packed).decode(),
    }


@pytest.mark.parametrize(
    ("text", "field", "before", "just", "over"),
    [
        ("size=2%", "size_bytes", 10_000, 10_200, 10_201),
        ("size=1KB", "size_bytes", 10_000, 11_000, 11_001),
        ("macs=10k", "macs", 100_000, 110_000, 110_001),
        ("params=0", "params", 100, 100, 101),
        ("ram=10%", "ram_bytes", 2_000, 2_200, 2_201),
        ("flash=5%", "flash_bytes", 1_000, 1_050, 1_051),
        ("instructions=1%", "instructions", 400_000, 404_000, 404_001),
        ("mismatches=0", "mismatches", 0, 0, 1),
        ("lint=1", "rule_breaches", 0, 1, 2),
    ],
)
def test_what_is_counted_is_on_one_side_of_its_limit(text: str, field: str, before: int, just: int, over: int) -> None:
    verdicts = [one(text, mcu(**{field: before}), mcu(**{field: value})) for value in (before // 2, just, over)]
    assert [verdict.outcome for verdict in verdicts] == ["pass", "pass", "fail"]
    assert "worse by" in verdicts[2].sentence


def test_a_sentence_tells_both_figures_the_change_and_the_limit() -> None:
    verdict = one("size=2%", mcu(size_bytes=10_000), mcu(size_bytes=10_500))
    assert verdict.limit == "size change"
    assert verdict.sentence == (
        "10.5 KB (10,500 B) against 10 KB (10,000 B): worse by 500 B (5 %), allowed at most 200 B (2 %), over by 300 B"
    )


def test_accuracies_of_the_same_images_are_paired() -> None:
    before, after = mcu(**right(set(range(50)))), mcu(**right(set(range(2, 54)), 1_000), **OTHER)
    verdict = one("accuracy=1pt", before, after)
    assert verdict.found == pytest.approx(0.2)
    assert verdict.outcome == "pass"
    unpaired = after.model_copy(update={"data": DataRow(name="digits", fingerprint="other", labels=10)})
    assert one("accuracy=1pt", before, unpaired).outcome == "cannot tell"
    assert "not paired" in one("accuracy=1pt", before, unpaired).sentence


def test_an_accuracy_that_fell_for_certain_fails_even_where_doubt_is_allowed() -> None:
    before, after = mcu(**right(set())), mcu(**right(set(range(30))), **OTHER)
    assert one("accuracy=1pt", before, after, allow=True).outcome == "fail"
    assert one("accuracy=5pt", before, after).outcome == "pass"


def test_the_same_file_lost_nothing_however_few_the_images() -> None:
    report = mcu(**right({1}, 20))
    assert one("accuracy=0pt", report, report).outcome == "pass"


def test_a_latency_is_compared_on_the_same_machine_only() -> None:
    fast = mcu(latency_ms=1.0, latency_low_ms=0.99, latency_high_ms=1.01)
    slow = mcu(latency_ms=1.2, latency_low_ms=1.19, latency_high_ms=1.21, **OTHER)
    assert one("latency=50%", fast, slow).outcome == "pass"
    assert one("latency=10%", fast, slow).outcome == "fail"
    assert one("latency=20%", fast, slow).outcome == "cannot tell"
    elsewhere = mcu(latency_ms=1.2, environment=ENVIRONMENT.model_copy(update={"cpu": "another"}), **OTHER)
    verdict = one("latency=50%", fast, elsewhere)
    assert verdict.outcome == "cannot tell"
    assert verdict.sentence.endswith("cannot tell, they were timed on different machines")


def test_a_speedup_that_grows_is_no_regression() -> None:
    spread = {"speedup_low": 1.99, "speedup_high": 2.01}
    before = mcu(speedup=2.0, **spread)
    assert one("speedup=0", before, mcu(speedup=3.0, speedup_low=2.9, speedup_high=3.1)).outcome == "pass"
    assert one("speedup=10%", before, mcu(speedup=1.0, speedup_low=0.9, speedup_high=1.1)).outcome == "fail"


def test_what_is_new_passes_and_what_is_gone_fails() -> None:
    with_c, without = mcu(), mcu(flash_bytes=None)
    assert one("flash=5%", without, with_c).ok
    assert not one("flash=5%", with_c, without).ok
    assert not one("flash=5%", without, without).ok
    full, single = example_report(), mcu()
    assert all(verdict.ok for verdict in check_change(full, single, [parse_regression("size=2%")]))
    verdicts = check_change(single, full, [parse_regression("size=2%")])
    assert [(v.tier, v.limit, v.ok) for v in verdicts] == [
        ("mcu", "size change", True),
        ("jetson", "tier", False),
        ("gpu", "tier", False),
    ]


def test_a_tiers_own_regression_goes_before_that_of_all_and_limits_may_allow_doubt() -> None:
    before, after = mcu(size_bytes=100), mcu(size_bytes=110)
    regressions = [parse_regression("mcu:size=20%"), parse_regression("size=2%")]
    assert [verdict.ok for verdict in check_change(after, before, regressions)] == [True]
    small = [mcu(**right({1}, 50)), mcu(**right({2}, 50), **OTHER)]
    accuracy = [parse_regression("accuracy=1pt")]
    for limits, ok in (({}, False), ({"mcu": Limits(allow_uncertain=True)}, True)):
        (verdict,) = check_change(small[1], small[0], accuracy, limits=limits)
        assert (verdict.uncertain, verdict.ok) == (True, ok)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("size", "write it like size=2%"),
        ("sise=2%", "'sise' is not one of size, accuracy"),
        ("drop=1pt", "accuracy says it"),
        ("accuracy=1%", "write percentage points, as in 0.3pt"),
        ("accuracy=lots", "percentage points"),
        ("size=lots", "'lots' is not a size; write it like 100KB.*or relative, like 2%"),
        ("size=x%", "is not a percentage"),
        ("size=-2%", "below 0"),
        ("accuracy=-1pt", "below 0"),
    ],
)
def test_what_is_no_regression_is_refused(text: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        parse_regression(text)


@given(st.text(max_size=20))
def test_any_text_is_a_regression_or_a_usage_error(text: str) -> None:
    with contextlib.suppress(UsageError):
        assert parse_regression(text).amount >= 0


def test_tiers_that_are_not_there_are_refused() -> None:
    with pytest.raises(UsageError, match=r"no tier 'mcx'; the report has mcu"):
        check_change(mcu(), mcu(), [parse_regression("mcx:size=2%")])
    with pytest.raises(UsageError, match="the baseline has no tier"):
        check_change(mcu(), example_report(tiers=()), [parse_regression("size=2%")])
