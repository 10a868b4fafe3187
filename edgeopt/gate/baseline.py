"""Regressions: how much worse a report may be than a stored one, such as that of the main branch.

Accuracies are compared image by image where both reports were measured on the same test images and say which of them
were right (Tango's score test, as for a drop), and as two independent shares otherwise (Newcombe's interval), which
needs many more images. A file that is the same byte for byte has lost nothing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from edgeopt.errors import UsageError
from edgeopt.gate.judge import RULES, Question, judge
from edgeopt.gate.read import LimitsByTier, limits_of
from edgeopt.report.compare import same_images, worsening
from edgeopt.report.figures import points
from edgeopt.report.limits import ALL_TIERS, Limits, Verdict
from edgeopt.report.quantities import Quantity
from edgeopt.report.report import Report, Row
from edgeopt.units import parse_points

__all__ = ["Regression", "check_change", "parse_regression"]

KNOWN = {rule.limit: rule for rule in RULES if rule.limit != "drop"}
FORM = re.compile(r"(?:(?P<tier>[^=:]+):)?(?P<figure>[a-z]+)=(?P<amount>.+)")


@dataclass(frozen=True)
class Regression:
    """The most by which one figure may be worse than the baseline's."""

    rule: Quantity
    amount: float
    """A fraction of the baseline's figure, or in the figure's unit (of an accuracy: percentage points)."""
    relative: bool
    tier: str = ALL_TIERS

    def allowed(self, before: float) -> float:
        return self.amount * before if self.relative else self.amount


def parse_regression(text: str) -> Regression:
    """`size=2%`, `mcu:accuracy=0.3pt`, `latency=0.5ms`. Raises UsageError."""
    match = FORM.fullmatch(text.strip())
    if match is None:
        raise UsageError(f"{text!r} is not a regression", where="--max-regression", fix="write it like size=2%")
    figure, amount = match["figure"], match["amount"].strip()
    where = f"--max-regression {figure}"
    if figure not in KNOWN:
        fix = "accuracy says it without another float model in between" if figure == "drop" else ""
        raise UsageError(f"{figure!r} is not one of {', '.join(KNOWN)}", where=where, fix=fix)
    tier = (match["tier"] or ALL_TIERS).strip()
    if figure == "accuracy":
        return Regression(KNOWN[figure], _points(amount, where), relative=False, tier=tier)
    if amount.endswith("%"):
        return Regression(KNOWN[figure], _percentage(amount, where), relative=True, tier=tier)
    return Regression(KNOWN[figure], _amount(figure, amount, where), relative=False, tier=tier)


def _points(amount: str, where: str) -> float:
    if amount.endswith("%"):
        raise UsageError(
            f"{amount!r} of an accuracy may mean two things", where=where, fix="write percentage points, as in 0.3pt"
        )
    try:
        found = parse_points(amount)
    except ValueError as error:
        raise UsageError(str(error), where=where) from error
    return _not_negative(found, amount, where)


def _percentage(amount: str, where: str) -> float:
    try:
        found = float(amount.removesuffix("%")) / 100
    except ValueError as error:
        raise UsageError(f"{amount!r} is not a percentage; write it like 2%", where=where) from error
    return _not_negative(found, amount, where)


def _not_negative(found: float, amount: str, where: str) -> float:
    if not 0 <= found < float("inf"):
        raise UsageError(f"{amount!r} is below 0", where=where, fix="give the most by which it may be worse, or 0")
    return found


def _amount(figure: str, amount: str, where: str) -> float:
    """An amount in the figure's own unit, read as its limit is."""
    from pydantic import ValidationError

    try:
        return float(getattr(Limits.model_validate({figure: amount}), figure))
    except ValidationError as error:
        said = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise UsageError(f"{said}; or relative, like 2%", where=where) from error


def check_change(
    report: Report,
    baseline: Report,
    regressions: Sequence[Regression],
    *,
    limits: LimitsByTier | None = None,
    allow_uncertain: bool = False,
) -> list[Verdict]:
    """One verdict for each regression of each tier it names, and one for each tier that was there and is gone.

    Of `limits` only `allow_uncertain` counts here; the argument of that name goes for every tier.

    Raises UsageError when a regression names a tier that the report does not have, or no tier is in both.
    """
    tiers, before = [row.tier for row in report.tiers], {row.tier: row for row in baseline.tiers}
    for regression in regressions:
        if regression.tier not in (ALL_TIERS, *tiers):
            raise UsageError(
                f"there is no tier {regression.tier!r}; the report has {', '.join(tiers)}", where="--max-regression"
            )
    if not before.keys() & set(tiers):
        raise UsageError(
            f"the baseline has {', '.join(before) or 'no tier'}, and the report has {', '.join(tiers)}",
            where="--baseline",
            fix="give the report of the same recipe",
        )
    paired = same_images(baseline, report)
    verdicts = [
        _judge_change(
            before.get(row.tier),
            row,
            regression,
            paired,
            allow_uncertain or bool(limits_of(row.tier, limits or {}).allow_uncertain),
        )
        for row in report.tiers
        for regression in _of_tier(row.tier, regressions)
    ]
    return verdicts + [_gone(tier) for tier in before if tier not in tiers]


def _of_tier(tier: str, regressions: Sequence[Regression]) -> list[Regression]:
    """Those that hold for `tier`; its own go before those of all."""
    chosen = {regression.rule.limit: regression for regression in regressions if regression.tier == ALL_TIERS}
    chosen |= {regression.rule.limit: regression for regression in regressions if regression.tier == tier}
    return [chosen[limit] for limit in KNOWN if limit in chosen]


def _gone(tier: str) -> Verdict:
    return Verdict(
        tier=tier,
        limit="tier",
        found=None,
        allowed=tier,
        ok=False,
        sentence="the baseline has this tier and the report does not; a new baseline settles it",
    )


def _judge_change(base: Row | None, row: Row, regression: Regression, paired: bool, allow: bool) -> Verdict:
    rule, limit = regression.rule, f"{regression.rule.limit} change"
    before = None if base is None else rule.found(base)
    after = rule.found(row)
    if base is None or before is None or after is None:
        return _without(row.tier, limit, before, after, new_tier=base is None)
    write = points if rule.limit == "accuracy" else rule.format
    evidence = worsening(rule, base, row, paired=paired)
    question = Question(
        row.tier,
        limit,
        regression.allowed(before),
        at_most=True,
        format=write,
        shown=f"{rule.format(after)} against {rule.format(before)}: {_change(regression, evidence.estimate, before)}",
        bound_note=f" ({100 * regression.amount:g} %)" if regression.relative else "",
    )
    return judge(question, evidence, allow_uncertain=allow)


def _change(regression: Regression, worse: float, before: float) -> str:
    if worse == 0:
        return "no change"
    write = points if regression.rule.limit == "accuracy" else regression.rule.format
    share = f" ({100 * abs(worse / before):.2g} %)" if regression.relative and before else ""
    return f"{'worse' if worse > 0 else 'better'} by {write(abs(worse))}{share}"


def _without(tier: str, limit: str, before: float | None, after: float | None, *, new_tier: bool) -> Verdict:
    """A figure that one of the two does not have: one that is new has nothing to be held against; one that was there
    and is gone fails, and so does one that neither has."""
    fine = after is not None
    sentence = "the report does not have the figure"
    if new_tier:
        sentence = "the baseline does not have this tier: nothing to compare with"
    elif fine:
        sentence = "the baseline does not have the figure: nothing to compare with"
    elif before is None:
        sentence = "neither the report nor the baseline has the figure"
    return Verdict(tier=tier, limit=limit, found=after, allowed=None, ok=fine or new_tier, sentence=sentence)
