"""The gate: every limit passes and fails, and nothing passes on silence."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest
from example_report import BASELINE, example_report, example_row, write_artifacts
from hypothesis import given
from hypothesis import strategies as st

from edgeopt.errors import UsageError
from edgeopt.gate import (
    RULES,
    check,
    check_file,
    check_files,
    failure,
    judge_again,
    limits_of,
    merge_limits,
    parse_flags,
    read_limits,
)
from edgeopt.report import DataRow, Limits, Report, Verdict
from edgeopt.report.onnx_file import OnnxFile

HOLDS = {
    "size": ("18213", "18212"),
    "drop": ("0.56pt", "0.55pt"),
    "accuracy": ("98.06%", "98.07%"),
    "speedup": ("1.43x", "1.44x"),
    "latency": ("0.0287ms", "0.0286ms"),
    "macs": ("295152", "295151"),
    "params": ("11418", "11.4k"),
    "ram": ("2500", "2499"),
    "flash": ("17848", "17.8KB"),
    "instructions": ("427620", "427.6k"),
    "mismatches": ("3", "2"),
    "lint": ("2", "1"),
}
"""For each limit: one that the mcu row just meets, and one that it just misses."""
SAMPLED = ("drop", "accuracy", "speedup", "latency")


def mcu(**changes: Any) -> Report:
    return example_report(tiers=(example_row("mcu", **{"rule_breaches": 2, **changes}),))


def one(limit: str, bound: str, report: Report | None = None, *, allow_uncertain: bool = False) -> Verdict:
    flags = parse_flags({limit: [f"mcu={bound}"]})
    (verdict,) = check(report or mcu(), flags, allow_uncertain=allow_uncertain)
    return verdict


def test_every_limit_has_a_rule_and_a_case() -> None:
    bounds = set(Limits.model_fields) - {"operators", "allow_uncertain"}
    assert {rule.limit for rule in RULES} == bounds == set(HOLDS)


@pytest.mark.parametrize("limit", HOLDS)
def test_where_the_measured_figure_decides_a_limit_just_met_passes_and_one_just_missed_fails(limit: str) -> None:
    met, missed = (one(limit, bound, allow_uncertain=True) for bound in HOLDS[limit])
    assert met.ok
    assert not missed.ok
    assert met.found == missed.found is not None
    assert " by " in missed.sentence
    assert " by " not in met.sentence


@pytest.mark.parametrize("limit", HOLDS)
def test_only_what_was_sampled_can_be_uncertain(limit: str) -> None:
    for bound in HOLDS[limit]:
        verdict = one(limit, bound)
        assert verdict.uncertain == (limit in SAMPLED)
        assert verdict.outcome == ("cannot tell" if limit in SAMPLED else "pass" if verdict.ok else "fail")
        assert not (verdict.ok and verdict.uncertain)


@pytest.mark.parametrize(
    ("limit", "sure", "hopeless"),
    [
        ("drop", "3pt", "-5pt"),
        ("accuracy", "95%", "99.9%"),
        ("speedup", "1.2x", "1.7x"),
        ("latency", "0.04ms", "0.02ms"),
    ],
)
def test_far_from_its_limit_a_sampled_figure_passes_or_fails(limit: str, sure: str, hopeless: str) -> None:
    assert one(limit, sure).outcome == "pass"
    assert one(limit, hopeless).outcome == "fail"
    assert not one(limit, hopeless, allow_uncertain=True).ok


def answers(lost: int, won: int, samples: int = 200) -> dict[str, Any]:
    """A row and its baseline of which only the first has `lost` images right, only the second `won`."""
    base = [n >= won for n in range(samples)]
    own = [n < samples - lost for n in range(samples)]
    score = sum(own) / samples
    return {
        "samples": samples,
        "accuracy": score,
        "drop_points": 100 * (lost - won) / samples,
        "correct_bits": bits(own),
        "baseline": BASELINE.model_copy(update={"correct_bits": bits(base), "accuracy": sum(base) / samples}),
    }


def bits(right: list[bool]) -> str:
    padded = right + [False] * (-len(right) % 8)
    return base64.b64encode(
        bytes(sum(flag << (7 - n) for n, flag in enumerate(padded[at : at + 8])) for at in range(0, len(padded), 8))
    ).decode()


def test_two_hundred_samples_cannot_tell_and_it_says_how_many_would() -> None:
    verdict = one("drop", "1pt", mcu(**answers(3, 2, 203)))
    assert verdict.outcome == "cannot tell"
    assert not verdict.ok
    assert "cannot tell with 203 samples (needs about 6," in verdict.sentence


def test_the_answers_themselves_go_before_the_interval_that_the_report_states() -> None:
    few, many = mcu(**answers(2, 1)), mcu(**answers(22, 21))
    assert one("drop", "3pt", few).outcome == "pass"
    assert one("drop", "3pt", many).outcome == "cannot tell"


def test_answers_that_are_cut_short_are_not_counted() -> None:
    report = mcu(**answers(2, 1) | {"correct_bits": "AAAA"})
    assert one("drop", "3pt", report).outcome == one("drop", "3pt", mcu(**answers(2, 1) | {"correct_bits": ""})).outcome


def test_a_figure_that_is_the_limit_itself_is_told_apart_by_no_number_of_samples() -> None:
    assert "no number of them settles it" in one("drop", "0.5pt", mcu(**answers(2, 1))).sentence


def test_a_tier_may_let_the_measured_figure_decide() -> None:
    limits = {"mcu": Limits(drop=1.0, allow_uncertain=True), "all": Limits(drop=1.0)}
    verdicts = check(example_report(), limits)
    assert [(v.tier, v.ok, v.uncertain) for v in verdicts] == [
        ("mcu", True, True),
        ("jetson", False, True),
        ("gpu", True, False),
    ]
    assert "the measured figure decides" in verdicts[0].sentence
    assert failure(verdicts) == (
        "1 of 3 checks failed, because what was measured cannot tell: use more test images, widen the limit, "
        "or let the measured figure decide with --allow-uncertain (allow_uncertain: true in limits)"
    )
    assert failure(verdicts[:1]) is None


def test_the_speedup_of_single_rounds_goes_before_the_spreads_of_both_latencies() -> None:
    assert one("speedup", "1.40x").outcome == "cannot tell"
    assert one("speedup", "1.40x", mcu(speedup_low=1.42, speedup_high=1.45)).outcome == "pass"


def test_operators_outside_the_set_fail_and_are_named() -> None:
    report = example_report(tiers=(example_row("mcu"),))
    fine = one("operators", "Conv,GlobalAveragePool,Gemm", report)
    assert fine.ok
    bad = one("operators", "Conv,Gemm", report)
    assert not bad.ok
    assert "has GlobalAveragePool, allowed Conv, Gemm" in bad.sentence
    assert one("operators", "mcu", report).ok
    assert not one("operators", "mcu", mcu(layers=())).ok
    with pytest.raises(UsageError, match="takes every operator"):
        one("operators", "gpu", report)


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule.figure != "size_bytes"], ids=lambda rule: rule.limit)
def test_a_figure_that_is_not_in_the_report_fails(rule: Any) -> None:
    absent = {field: None for field in (rule.figure, rule.rather) if field}
    verdict = one(rule.limit, "1", mcu(**absent))
    assert not verdict.ok
    assert verdict.found is None
    assert "does not have it" in verdict.sentence


def test_ram_is_that_of_the_c_program_where_there_is_one() -> None:
    assert one("ram", "2499").found == 2_500
    without = example_report(tiers=(example_row("mcu", ram_bytes=None),))
    assert one("ram", "2048", without).found == 2_048


@pytest.mark.parametrize("limit", ["flash", "instructions", "mismatches"])
def test_a_figure_of_the_c_program_says_where_it_is_from_or_how_to_get_it(limit: str) -> None:
    assert "(cortex-m4: 64 test images of digits)" in one(limit, "1").sentence
    rule = next(rule for rule in RULES if rule.limit == limit)
    bare = example_report(tiers=(example_row("mcu", **{rule.figure: None}, c_basis=""),))
    assert "edgeopt verify ARTIFACT" in one(limit, "1", bare).sentence


def test_a_report_is_judged_again_when_its_figures_change() -> None:
    limits = {"mcu": Limits(mismatches=0)}
    wrong = judge_again(example_report(limits=limits))
    assert [verdict.ok for verdict in wrong.gate] == [False]
    right = wrong.model_copy(update={"tiers": (example_row("mcu", mismatches=0),)})
    assert [verdict.ok for verdict in judge_again(right).gate] == [True]


def test_unlabelled_data_is_named_as_the_reason() -> None:
    blank = {"accuracy": None, "accuracy_low": None, "accuracy_high": None, "drop_points": None}
    report = example_report(data=DataRow(name="photos", labels=0), tiers=(example_row("mcu", **blank),))
    assert "no labels" in one("accuracy", "97%", report).sentence
    assert "no labels" in one("drop", "2pt", report).sentence


def test_an_accuracy_gain_is_no_drop() -> None:
    assert one("drop", "0pt", mcu(**answers(1, 12))).outcome == "pass"


def test_a_drop_of_exactly_the_limit_holds_in_floating_point() -> None:
    drop = (0.97 - 0.95) * 100
    assert drop > 2
    assert one("drop", "2pt", mcu(drop_points=drop, drop_high=None)).ok


def test_a_drop_and_an_accuracy_say_how_sure_they_are_on_the_side_of_the_limit() -> None:
    assert one("drop", "3pt").sentence.startswith("0.56 pt (95 % sure of at most 1.66 pt, 360 images)")
    assert one("accuracy", "96%").sentence.startswith("98.06 % (95 % sure of at least 96.4")
    assert "of at most" in one("accuracy", "99.9%").sentence
    assert "(spread of the rounds 0.0278 ms to 0.0304 ms)" in one("latency", "1ms").sentence


@given(st.integers(0, 10**9), st.integers(0, 10**9))
def test_size_is_compared_in_bytes(size: int, bound: int) -> None:
    report = example_report(tiers=(example_row("mcu", size_bytes=size),))
    (verdict,) = check(report, {"mcu": Limits(size=bound)})
    assert verdict.ok == (size <= bound)


def test_limits_of_all_hold_for_every_tier_and_a_tiers_own_go_before_them() -> None:
    limits = parse_flags({"size": ["19KB", "gpu=40KB"]})
    verdicts = check(example_report(), limits)
    assert [(v.tier, v.ok, v.allowed) for v in verdicts] == [
        ("mcu", True, 19_000),
        ("jetson", False, 19_000),
        ("gpu", True, 40_000),
    ]
    assert limits_of("mcu", limits).size == 19_000


def test_merging_keeps_what_the_second_does_not_say() -> None:
    merged = merge_limits({"mcu": Limits(size=1, ram=2)}, {"mcu": Limits(size=3), "all": Limits(params=4)})
    assert merged == {"mcu": Limits(size=3, ram=2), "all": Limits(params=4)}


def test_a_tier_that_the_report_does_not_have_is_refused() -> None:
    with pytest.raises(UsageError, match=r"'mcx', and the report has mcu, jetson, gpu"):
        check(example_report(), parse_flags({"size": ["mcx=1KB"]}))


def test_a_report_without_artifacts_cannot_pass() -> None:
    with pytest.raises(UsageError, match="no artifact"):
        check(example_report(tiers=()), {"all": Limits(size=1)})


@pytest.mark.parametrize("text", ["", "mcu=", "mcu=tiny", "10 parsecs", "="])
def test_a_flag_that_is_no_limit_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="limit on size"):
        parse_flags({"size": [text]})


def test_artifacts_are_the_files_that_were_measured(tmp_path: Path) -> None:
    write_artifacts(tmp_path)
    assert all(verdict.ok for verdict in check_files(example_report(), tmp_path))
    mcu = tmp_path / "mcu" / "model.onnx"
    content = bytearray(mcu.read_bytes())
    content[-1] ^= 1
    mcu.write_bytes(content)
    (tmp_path / "gpu" / "model.onnx").unlink()
    verdicts = check_files(example_report(), tmp_path)
    assert [verdict.ok for verdict in verdicts] == [False, True, False]
    assert "changed since it was measured" in verdicts[0].sentence
    assert "missing" in verdicts[2].sentence


def test_a_report_that_states_another_size_than_the_file_has_fails(tmp_path: Path) -> None:
    write_artifacts(tmp_path)
    report = example_report(tiers=(example_row("mcu", size_bytes=100),))
    (verdict,) = check_files(report, tmp_path)
    assert not verdict.ok


@pytest.mark.parametrize("path", [".", "mcu", "\0", "x" * 5_000])
def test_a_path_that_cannot_be_an_artifact_fails_without_a_traceback(tmp_path: Path, path: str) -> None:
    write_artifacts(tmp_path)
    (verdict,) = check_files(example_report(tiers=(example_row("mcu", path=path),)), tmp_path)
    assert not verdict.ok


def test_limits_are_read_from_a_file_shaped_as_a_recipes_gate(tmp_path: Path) -> None:
    path = tmp_path / "gate.yaml"
    path.write_text("mcu: {size: 100KB, drop: 2pt}\nall:\n  accuracy: 97%\n  ram: &r 64KiB\ngpu: {ram: *r}\n")
    assert read_limits(path, ["mcu", "gpu"]) == {
        "mcu": Limits(size=100_000, drop=2.0),
        "all": Limits(accuracy=0.97, ram=65_536),
        "gpu": Limits(ram=65_536),
    }


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("mcu:\n  size: 1KB\n  droop: 2pt\n", r"gate.yaml:3 droop: there is no limit 'droop'"),
        ("mcu:\n  size: 1KB\n  drop: lots\n", r"gate.yaml:3 drop: 'lots' is not"),
        ("all: {}\n\nmcx: {size: 1KB}\n", r"gate.yaml:3: limits are given for tier 'mcx'"),
        ("mcu: {size: 1KB}\nmcu: {size: 2KB}\n", r"gate.yaml:2: key 'mcu' stands twice"),
        ("mcu: 100KB\n", "not a mapping"),
        ("- mcu\n", "not a mapping"),
        ("", "not a mapping"),
        ("mcu: {size: 1KB\n", "not YAML"),
        ("mcu: *none\n", "not YAML"),
        ("mcu: &a {size: *a}\n", "an anchor holds itself"),
        ("mcu: !!python/object:os.system {}\n", "not YAML"),
        ("1: {size: 1KB}\n", "tier '1'"),
        ("mcu: {1: 2}\n", "limit '?1"),
        ("? [a]\n: {size: 1KB}\n", r"gate.yaml:1: a key has to be text"),
    ],
)
def test_a_file_of_limits_with_a_mistake_is_refused_with_its_line(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "gate.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match=says) as caught:
        read_limits(path, ["mcu"])
    assert "\n" not in str(caught.value)


def test_a_file_of_limits_that_is_not_there_or_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path / "none.yaml", tmp_path, tmp_path / "bytes.yaml"):
        with pytest.raises(UsageError):
            read_limits(path)


def test_a_bare_model_is_checked_for_what_a_file_can_tell() -> None:
    file = OnnxFile(size_bytes=1_000, params=250, operators={}, metadata={})
    verdicts = check_file(file, "m.onnx", {"all": Limits(size=1_000, params=249)})
    assert [(v.limit, v.ok) for v in verdicts] == [("size", True), ("params", False)]
    with pytest.raises(UsageError, match=r"does not tell drop, speedup.*report\.json"):
        check_file(file, "m.onnx", {"all": Limits(size=1, drop=1.0, speedup=1.0)})
    with pytest.raises(UsageError, match=r"no tier 'mcu'.*--tier mcu"):
        check_file(file, "m.onnx", {"mcu": Limits(size=1)})
    with pytest.raises(UsageError, match="whose rules"):
        check_file(file, "m.onnx", {"all": Limits(lint=0)})


def test_a_bare_model_may_be_one_of_a_tier() -> None:
    file = OnnxFile(size_bytes=1_000, params=250, operators={"Conv": 2, "Erf": 1, "QuantizeLinear": 9}, metadata={})
    limits = {"all": Limits(size=10), "mcu": Limits(size=2_000, operators=("Conv",), lint=0)}
    verdicts = check_file(file, "m.onnx", limits, tier="mcu", breaches=1)
    assert [(v.limit, v.ok) for v in verdicts] == [("size", True), ("lint", False), ("operators", False)]
    assert "has Erf" in verdicts[-1].sentence
