"""`check`: the verdicts on a report, on its files, and on a bare model file."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgeopt.errors import UsageError
from edgeopt.gate.judge import RULES, Question, judge
from edgeopt.gate.operators import judge_operators
from edgeopt.gate.read import LimitsByTier, known_tier, limits_of
from edgeopt.intervals import Exact
from edgeopt.report.limits import ALL_TIERS, Limits, Verdict
from edgeopt.report.onnx_file import identify
from edgeopt.report.quantities import Quantity
from edgeopt.report.report import ACCURACY, Report, Row

if TYPE_CHECKING:
    from edgeopt.report.onnx_file import OnnxFile

__all__ = ["check", "check_file", "check_files", "doubts", "failure", "judge_again"]

UNVERIFIED = (
    "the report does not have it: `edgeopt verify ARTIFACT --target cortex-m4 --report REPORT` builds the C program, "
    "runs it and adds the figure"
)


def check(report: Report, limits: LimitsByTier, *, allow_uncertain: bool = False) -> list[Verdict]:
    """One verdict for each limit of each tier, in the report's order. `allow_uncertain` goes for every tier.

    Raises UsageError when a limit names a tier that the report does not have.
    """
    tiers = [row.tier for row in report.tiers]
    if not tiers:
        raise UsageError("the report has no artifact to check", fix="run a recipe that exports a tier")
    for name in limits:
        known_tier(name, tiers)
    return [
        verdict
        for row in report.tiers
        for verdict in _check_row(report, row, limits_of(row.tier, limits), allow_uncertain)
    ]


def judge_again(report: Report) -> Report:
    """The report with the verdicts of its own limits as its figures are now."""
    return report.model_copy(update={"gate": tuple(check(report, report.limits)) if report.limits else ()})


def failure(verdicts: Sequence[Verdict]) -> str | None:
    """What failed, in a sentence; None: nothing did."""
    failed = sum(not verdict.ok for verdict in verdicts)
    return f"{failed} of {len(verdicts)} checks failed{doubts(verdicts)}" if failed else None


def doubts(verdicts: Sequence[Verdict]) -> str:
    """How many failed because nothing can be told, and what would do: the rest of a sentence that counts failures;
    empty: none."""
    failed = [verdict for verdict in verdicts if not verdict.ok]
    unsure = sum(verdict.uncertain for verdict in failed)
    if not unsure:
        return ""
    which = "" if len(failed) == 1 else "all of them " if unsure == len(failed) else f"{unsure} of them "
    return (
        f", {which}because what was measured cannot tell: use more test images, widen the limit, or let the measured "
        "figure decide with --allow-uncertain (allow_uncertain: true in limits)"
    )


def check_files(report: Report, folder: Path) -> list[Verdict]:
    """One verdict for each artifact: the file beside the report is the one that was measured."""
    return [_judge_file(row, folder) for row in report.tiers]


def check_file(
    file: OnnxFile, name: str, limits: LimitsByTier, *, tier: str | None = None, breaches: int | None = None
) -> list[Verdict]:
    """Verdicts on what an .onnx file alone can tell: its size, its parameters, its operators.

    `tier`: the one that it was made for; its limits hold too. `breaches`: of that tier's Q/DQ rules, where they were
    counted. Raises UsageError when a limit needs a measurement, or names another tier.
    """
    for other in limits:
        if other not in (ALL_TIERS, tier):
            raise UsageError(
                f"a model file has no tier {other!r}",
                where=name,
                fix=f"say that it is one with --tier {other}, give the limit without a tier, or pass a report.json",
            )
    own = limits_of(tier or ALL_TIERS, limits)
    figures = {"size": file.size_bytes, "params": file.params}
    if breaches is not None:
        figures["lint"] = breaches
    untold = [rule.limit for rule, _ in _rules_of(own) if rule.limit not in figures]
    if untold == ["lint"]:
        raise UsageError("lint needs to know whose rules", where=name, fix="name the tier, as in --tier jetson")
    if untold:
        raise UsageError(
            f"a model file alone does not tell {', '.join(untold)}",
            where=name,
            fix="pass the report.json of the run that measured it",
        )
    verdicts = [judge(_question(name, rule, allowed), Exact(figures[rule.limit])) for rule, allowed in _rules_of(own)]
    return verdicts + _operators(name, file.operators, own)


def _check_row(report: Report, row: Row, limits: Limits, allow_uncertain: bool) -> list[Verdict]:
    allow = allow_uncertain or bool(limits.allow_uncertain)
    verdicts = [
        _judge_figure(row, rule, allowed, _why_absent(report, row, rule), allow) for rule, allowed in _rules_of(limits)
    ]
    return verdicts + _operators(row.tier, [layer.op for layer in row.layers], limits)


def _operators(name: str, used: Collection[str], limits: Limits) -> list[Verdict]:
    return [] if limits.operators is None else [judge_operators(name, used, limits.operators)]


def _rules_of(limits: Limits) -> Iterable[tuple[Quantity, float]]:
    for rule in RULES:
        allowed: float | None = getattr(limits, rule.limit)
        if allowed is not None:
            yield rule, allowed


def _why_absent(report: Report, row: Row, rule: Quantity) -> str:
    unlabelled = report.data is not None and report.data.labels == 0
    if unlabelled and rule.figure in ("accuracy", "drop_points"):
        return "cannot be told: the data has no labels"
    if rule.figure == "rule_breaches" and row.precision not in ("", "int8"):
        return f"cannot be told: the artifact is {row.precision}, without Q/DQ nodes"
    return UNVERIFIED if rule.verified else "was not measured: the report does not have it"


def _question(tier: str, rule: Quantity, allowed: float, note: str = "", metric: str = ACCURACY) -> Question:
    def write(value: float) -> str:
        """The figure, and of what it is where `rule` does not say it."""
        return f"{rule.format(value)} {metric}" if metric != ACCURACY else rule.format(value)

    return Question(tier, rule.limit, allowed, rule.less_is_better, write, note=note)


def _judge_figure(row: Row, rule: Quantity, allowed: float, absent: str, allow_uncertain: bool) -> Verdict:
    found = rule.found(row)
    metric = row.metric if rule.figure in ("accuracy", "drop_points") else ACCURACY
    question = _question(row.tier, rule, allowed, _source(row, rule), metric)
    if found is None:
        sentence = f"{absent}; {question.bound}"
        return Verdict(tier=row.tier, limit=rule.limit, found=None, allowed=allowed, ok=False, sentence=sentence)
    return judge(question, rule.evidence(row) or Exact(found), found=found, allow_uncertain=allow_uncertain)


def _source(row: Row, rule: Quantity) -> str:
    """Where a figure of the C program is from."""
    of_c_code = rule.verified or (rule.rather and getattr(row, rule.rather) is not None)
    return row.c_basis if of_c_code else ""


def _judge_file(row: Row, folder: Path) -> Verdict:
    path = folder / row.path
    found, sentence = None, f"{row.path} is missing; --report-only checks the figures alone"
    try:
        found, size = identify(path)
        sentence = f"{row.path} is the file that was measured"
        if found != row.sha256:
            sentence = f"{row.path} changed since it was measured"
        elif size != row.size_bytes:
            found, sentence = None, f"{row.path} is what was measured, but the report states another size"
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:  # ValueError: a path with a null byte
        sentence = f"{row.path!r} cannot be read ({error})"
    return Verdict(
        tier=row.tier,
        limit="file",
        found=found,
        allowed=row.sha256,
        ok=found == row.sha256,
        sentence=sentence,
    )
