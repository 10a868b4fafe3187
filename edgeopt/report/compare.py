"""Two reports, or two models, beside each other: every figure's change with its interval, tier by tier."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from edgeopt.errors import UsageError
from edgeopt.intervals import Z95, Evidence, Exact, PairedDrop, Resampled, Spread, UnpairedDrop
from edgeopt.report.figures import points
from edgeopt.report.quantities import (
    QUANTITIES,
    Quantity,
    accuracy_share,
    correct_images,
    latency_spread,
    resampled_accuracy,
)
from edgeopt.report.report import ACCURACY, Environment, Report, Row

__all__ = ["Comparison", "Difference", "Pair", "compare_reports", "compare_rows", "same_images", "worsening"]

COMPARED = tuple(quantity for quantity in QUANTITIES if quantity.limit != "drop")
"""The drop is against a float model, which may be another one in each report; the accuracy says it better."""
BOTH = "spreads of both runs"


@dataclass(frozen=True)
class Difference:
    """One figure of both artifacts."""

    quantity: Quantity
    before: float
    after: float
    change: float
    """after - before, in the figure's unit; of an accuracy in percentage points."""
    low: float
    """95 % interval of the change, or what the spreads of two timings leave open."""
    high: float
    basis: str
    """What the interval rests on; empty: the figure is counted."""

    @property
    def outcome(self) -> Literal["better", "worse", "same", "cannot tell"]:
        if self.low == self.high == 0:
            return "same"
        if self.low <= 0 <= self.high:
            return "cannot tell"
        return "better" if (self.high < 0) == self.quantity.less_is_better else "worse"

    @property
    def figures(self) -> tuple[str, str]:
        """Before and after, as a table shows them."""
        write = self.quantity.brief or self.quantity.format
        return write(self.before), write(self.after)

    @property
    def words(self) -> str:
        """The change: `+220 B (+1.4 %)`, `-1.11 pt`, or `none`."""
        if self.change == 0:
            return "none"
        if self.quantity.limit == "accuracy":
            return _signed(points, self.change)
        share = f" ({100 * self.change / self.before:+.1f} %)" if self.before else ""
        return _signed(self.quantity.brief or self.quantity.format, self.change) + share

    @property
    def interval(self) -> str:
        """`-2.08 to -0.15 pt, 360 images`; empty for what is counted."""
        if not self.basis or math.isinf(self.low):
            return self.basis
        write = points if self.quantity.limit == "accuracy" else self.quantity.brief or self.quantity.format
        return f"{_signed(write, self.low)} to {_signed(write, self.high)}, {self.basis}"


def _signed(write: Callable[[float], str], value: float) -> str:
    return f"{'-' if value < 0 else '+'}{write(abs(value))}"


@dataclass(frozen=True)
class Pair:
    """One tier of both reports, or two models."""

    name: str
    differences: tuple[Difference, ...]
    note: str = ""


@dataclass(frozen=True)
class Comparison:
    """What there is to compare, in the first report's order."""

    first: str
    second: str
    pairs: tuple[Pair, ...]
    notes: tuple[str, ...] = ()


def compare_reports(first: Report, second: Report, names: Sequence[str]) -> Comparison:
    """The tiers that both have. `names`: what the two are called. Raises UsageError when no tier is in both."""
    rows = {row.tier: row for row in second.tiers}
    shared = [row for row in first.tiers if row.tier in rows]
    if not shared:
        have = (", ".join(row.tier for row in report.tiers) or "none" for report in (first, second))
        raise UsageError(
            f"the reports have no tier in common ({' and '.join(have)})",
            fix="compare the two .onnx files themselves, with --data",
        )
    paired = same_images(first, second)
    pairs = tuple(
        Pair(row.tier, tuple(compare_rows(row, rows[row.tier], paired=paired)), _identity(row, rows[row.tier]))
        for row in shared
    )
    return Comparison(names[0], names[1], pairs, tuple(_notes(first, second, paired)))


def compare_rows(first: Row, second: Row, *, paired: bool) -> list[Difference]:
    """Each figure that both have. `paired`: they were measured on the same images in the same order."""
    found = []
    for quantity in COMPARED:
        before, after = quantity.found(first), quantity.found(second)
        if before is not None and after is not None:
            worse = worsening(quantity, first, second, paired=paired)
            sign = 1 if quantity.less_is_better else -1
            low, high = sorted(sign * end for end in worse.interval(Z95))
            basis = "" if isinstance(worse, Exact) else worse.basis
            found.append(Difference(quantity, before, after, sign * worse.estimate, low, high, basis))
    return found


def same_images(first: Report, second: Report) -> bool:
    """Whether both were measured on the same test images."""
    known = first.data is not None and second.data is not None and first.data.fingerprint != ""
    return known and first.data.fingerprint == second.data.fingerprint  # type: ignore[union-attr]


def worsening(quantity: Quantity, first: Row, second: Row, *, paired: bool) -> Evidence:
    """By how much `second` is worse than `first`, in the figure's unit (of an accuracy: percentage points).

    Both rows have the figure. Negative: it is better.
    """
    sign = 1 if quantity.less_is_better else -1
    before, after = quantity.found(first), quantity.found(second)
    assert before is not None
    assert after is not None
    if quantity.limit == "accuracy":
        return _accuracy_loss(first, second, paired)
    if quantity.limit == "latency":
        return _slowdown(first, second)
    own, base = quantity.evidence(second), quantity.evidence(first)
    if isinstance(own, Spread) and isinstance(base, Spread):
        low, high = _apart(base, own)
        ends = sorted((sign * low, sign * high))
        return Spread(sign * (after - before), ends[0], ends[1], BOTH)
    return Exact(sign * (after - before))


def _accuracy_loss(first: Row, second: Row, paired: bool) -> Evidence:
    loss = 100 * ((first.accuracy or 0) - (second.accuracy or 0))
    if first.metric != second.metric:
        return Spread(loss, -math.inf, math.inf, f"{first.metric} here, {second.metric} there")
    if paired and first.sha256 == second.sha256:
        return Exact(0.0, "the same file")
    base, own = correct_images(first, first.samples), correct_images(second, second.samples)
    if paired and base is not None and own is not None and first.samples == second.samples and second.samples:
        return PairedDrop((base & ~own).bit_count(), (own & ~base).bit_count(), second.samples)
    before, after = accuracy_share(first), accuracy_share(second)
    if before is None or after is None:
        if (good := resampled_accuracy(first)) and (bad := resampled_accuracy(second)) and first.metric != ACCURACY:
            low = math.hypot(good.estimate - good.low, bad.high - bad.estimate)
            high = math.hypot(good.high - good.estimate, bad.estimate - bad.low)
            return Resampled(loss, loss - 100 * low, loss + 100 * high, bad.samples)
        return Spread(loss, -math.inf, math.inf, "a report does not say on how many images")
    return UnpairedDrop(before, after)


def _slowdown(first: Row, second: Row) -> Evidence:
    """Milliseconds. Within one run the ratio of its rounds says it best; between two runs, both spreads."""
    before, after = first.latency_ms or 0.0, second.latency_ms or 0.0
    in_turns = second.baseline.sha256 == first.sha256 and second.baseline.latency_ms == first.latency_ms
    if in_turns and second.speedup_low and second.speedup_high:
        return Spread(
            after - before,
            before / second.speedup_high - before,
            before / second.speedup_low - before,
            "timed in turns, spread",
        )
    if not _same_machine(first.environment, second.environment):
        return Spread(after - before, -math.inf, math.inf, "they were timed on different machines")
    base, own = latency_spread(first), latency_spread(second)
    if base is None or own is None:
        return Spread(after - before, -math.inf, math.inf, "a report does not have the spread")
    return Spread(after - before, *_apart(base, own), BOTH)


def _apart(base: Spread, own: Spread) -> tuple[float, float]:
    """Of own - base: the spreads of two runs that know nothing of each other add up as squares do."""
    change = own.estimate - base.estimate
    return (
        change - math.hypot(own.estimate - own.low, base.high - base.estimate),
        change + math.hypot(own.high - own.estimate, base.estimate - base.low),
    )


def _same_machine(first: Environment, second: Environment) -> bool:
    keys = ("cpu", "cores", "threads", "provider")
    return all(getattr(first, key) == getattr(second, key) for key in keys)


def _identity(first: Row, second: Row) -> str:
    return "the same file" if first.sha256 == second.sha256 else ""


def _notes(first: Report, second: Report, paired: bool) -> list[str]:
    notes = []
    told = any(row.accuracy is not None for row in (*first.tiers, *second.tiers))
    if told and not paired:
        notes.append("The reports were measured on different images: accuracies are compared unpaired.")
    elif told and any(not row.correct_bits and row.accuracy is not None for row in (*first.tiers, *second.tiers)):
        notes.append("A report does not have its answers image by image: accuracies are compared unpaired.")
    for report, others in ((first, second), (second, first)):
        alone = [row.tier for row in report.tiers if row.tier not in {other.tier for other in others.tiers}]
        which = "first" if report is first else "second"
        notes += [f"Only the {which} has {', '.join(alone)}."] if alone else []
    return notes
