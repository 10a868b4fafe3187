"""One figure and its limit: pass, fail or cannot tell, and the sentence that says why.

The question is one-sided ("is the drop under 1 pt?"), so the bound is one-sided too: at 95 %, 1.645 standard
deviations to the side of the limit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from edgeopt.intervals import ONE_SIDED_Z95, Evidence, Exact, Spread, samples_needed
from edgeopt.report.limits import Verdict
from edgeopt.report.quantities import QUANTITIES

__all__ = ["ROUNDING", "RULES", "Question", "judge"]

RULES = QUANTITIES
ROUNDING = 1e-9
"""Figures are computed in floating point: a drop of exactly 2 pt may arrive as 2.0000000000000018."""


@dataclass(frozen=True)
class Question:
    """Is this figure of this artifact on the right side of its limit?"""

    tier: str
    limit: str
    allowed: float
    at_most: bool
    format: Callable[[float], str]
    shown: str = ""
    """The figure in words, where its format alone would not do."""
    note: str = ""
    """Where a counted figure is from."""
    bound_note: str = ""
    """What else is said of the limit."""

    def holds(self, value: float) -> bool:
        """Whether `value` is on the right side; exactly on the limit is fine."""
        slack = ROUNDING * max(1.0, abs(self.allowed))
        return value <= self.allowed + slack if self.at_most else value >= self.allowed - slack

    @property
    def bound(self) -> str:
        return f"allowed {'at most' if self.at_most else 'at least'} {self.format(self.allowed)}{self.bound_note}"


def judge(
    question: Question, evidence: Evidence, *, found: float | None = None, allow_uncertain: bool = False
) -> Verdict:
    """The verdict on `evidence`, which is in the unit of the question's limit.

    `found`: the figure as the report rounds it, where that is not the evidence's estimate to the last digit.
    """
    found = evidence.estimate if found is None else float(found)
    low, high = evidence.interval(ONE_SIDED_Z95)
    uncertain = question.holds(low) != question.holds(high)
    holds = question.holds(found)
    excess = "" if holds else _excess(question, found)
    rest = f"{excess}{_doubt(question, evidence, allow_uncertain)}" if uncertain else excess
    shown = question.shown or question.format(found)
    return Verdict(
        tier=question.tier,
        limit=question.limit,
        found=found,
        allowed=question.allowed,
        ok=holds and (allow_uncertain or not uncertain),
        uncertain=uncertain,
        sentence=f"{shown}{_certainty(question, evidence)}, {question.bound}{rest}",
    )


def _excess(question: Question, found: float) -> str:
    side = "over" if question.at_most else "under"
    return f", {side} by {question.format(abs(found - question.allowed))}"


def _certainty(question: Question, evidence: Evidence) -> str:
    """How sure the figure is, on the side of its limit."""
    low, high = evidence.interval(ONE_SIDED_Z95)
    if isinstance(evidence, Exact):
        return f" ({question.note})" if question.note else ""
    if isinstance(evidence, Spread):
        known = low > float("-inf")
        return f" ({evidence.basis} {question.format(low)} to {question.format(high)})" if known else ""
    above = evidence.estimate < question.allowed or (evidence.estimate == question.allowed and question.at_most)
    sure = f"at most {question.format(high)}" if above else f"at least {question.format(low)}"
    return f" (95 % sure of {sure}, {evidence.basis})"


def _doubt(question: Question, evidence: Evidence, allowed: bool) -> str:
    tail = "; the measured figure decides" if allowed else ""
    if evidence.samples is None:
        return f": cannot tell, {_why_not(evidence)}{tail}"
    needed = samples_needed(evidence, question.allowed)
    more = "no number of them settles it" if needed is None else f"needs about {needed:,}"
    return f": cannot tell with {evidence.samples:,.0f} samples ({more}){tail}"


def _why_not(evidence: Evidence) -> str:
    known = evidence.interval(ONE_SIDED_Z95)[0] > float("-inf")
    return "the limit is inside the spread" if known else evidence.basis
