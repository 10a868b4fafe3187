"""The gate: limits, and `check(report, limits) -> verdicts`. Loads neither torch nor onnx.

What passes and what does not:

- The recorded point estimate decides; a verdict on a drop shows its interval as well.
- A limit on a figure that the report does not have fails and says so: a gate never passes on silence.
- Artifacts are compared with what was measured: a file that is missing or was changed since fails.
- Limits that are given replace the ones the recipe recorded; they are not added to them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from edgeopt.errors import UsageError
from edgeopt.report.figures import exact_bytes, milliseconds, percent, points, ratio
from edgeopt.report.limits import ALL_TIERS, Limits, Verdict
from edgeopt.report.onnx_file import identify
from edgeopt.report.report import Report, Row

if TYPE_CHECKING:
    import yaml

    from edgeopt.report.onnx_file import OnnxFile

__all__ = [
    "RULES",
    "Limits",
    "Rule",
    "Verdict",
    "check",
    "check_file",
    "check_files",
    "judge_again",
    "limits_of",
    "merge_limits",
    "parse_flags",
    "read_limits",
]

LimitsByTier = Mapping[str, Limits]
"""Tier name, or `all`, to its limits."""

ROUNDING = 1e-9
"""Figures are computed in floating point: a drop of exactly 2 pt may arrive as 2.0000000000000018."""


@dataclass(frozen=True)
class Rule:
    """Which figure a field of `Limits` bounds, and from which side."""

    limit: str
    figure: str
    """The field of `Row`."""
    at_most: bool
    format: Callable[[float], str]
    rather: str = ""
    """A field that goes before `figure` where the row has it."""
    verified: bool = False
    """A figure of the C program that `edgeopt verify` tells."""

    def found(self, row: Row) -> float | None:
        own: float | None = getattr(row, self.rather) if self.rather else None
        return getattr(row, self.figure) if own is None else own

    def holds(self, found: float, allowed: float) -> bool:
        """Whether `found` is on the right side of `allowed`; exactly on it is fine."""
        slack = ROUNDING * max(1.0, abs(allowed))
        return found <= allowed + slack if self.at_most else found >= allowed - slack

    def allowed(self, bound: float) -> str:
        return f"{'at most' if self.at_most else 'at least'} {self.format(bound)}"


UNVERIFIED = (
    "the report does not have it: `edgeopt verify ARTIFACT --target cortex-m4 --report REPORT` builds the C program, "
    "runs it and adds the figure"
)

RULES = (
    Rule("size", "size_bytes", True, exact_bytes),
    Rule("drop", "drop_points", True, points),
    Rule("accuracy", "accuracy", False, percent),
    Rule("speedup", "speedup", False, ratio),
    Rule("latency", "latency_ms", True, milliseconds),
    Rule("macs", "macs", True, "{:,.0f}".format),
    Rule("params", "params", True, "{:,.0f}".format),
    Rule("ram", "peak_ram_bytes", True, exact_bytes, rather="ram_bytes"),
    Rule("flash", "flash_bytes", True, exact_bytes, verified=True),
    Rule("instructions", "instructions", True, "{:,.0f}".format, verified=True),
    Rule("mismatches", "mismatches", True, "{:,.0f}".format, verified=True),
)
"""One for each field of `Limits`; a test holds the two together."""


def check(report: Report, limits: LimitsByTier) -> list[Verdict]:
    """One verdict for each limit of each tier, in the report's order.

    Raises UsageError when a limit names a tier that the report does not have.
    """
    tiers = [row.tier for row in report.tiers]
    if not tiers:
        raise UsageError("the report has no artifact to check", fix="run a recipe that exports a tier")
    for name in limits:
        _known_tier(name, tiers)
    return [
        _judge(row, rule, allowed, _why_absent(report, rule))
        for row in report.tiers
        for rule, allowed in _rules_of(limits_of(row.tier, limits))
    ]


def judge_again(report: Report) -> Report:
    """The report with the verdicts of its own limits as its figures are now."""
    return report.model_copy(update={"gate": tuple(check(report, report.limits)) if report.limits else ()})


def check_files(report: Report, folder: Path) -> list[Verdict]:
    """One verdict for each artifact: the file beside the report is the one that was measured."""
    return [_judge_file(row, folder) for row in report.tiers]


def check_file(file: OnnxFile, name: str, limits: LimitsByTier) -> list[Verdict]:
    """Verdicts on what an .onnx file alone can tell: its size and its parameters.

    Raises UsageError when a limit needs a measurement, or names a tier.
    """
    for tier in limits:
        if tier != ALL_TIERS:
            raise UsageError(
                f"a model file has no tier {tier!r}",
                where=name,
                fix="give the limit without a tier, or a report.json",
            )
    figures = {"size": file.size_bytes, "params": file.params}
    rules = list(_rules_of(limits_of(ALL_TIERS, limits)))
    untold = [rule.limit for rule, _ in rules if rule.limit not in figures]
    if untold:
        raise UsageError(
            f"a model file alone does not tell {', '.join(untold)}",
            where=name,
            fix="pass the report.json of the run that measured it",
        )
    return [_verdict(name, rule, figures[rule.limit], allowed) for rule, allowed in rules]


def limits_of(tier: str, limits: LimitsByTier) -> Limits:
    """The limits that hold for `tier`: its own, and those of `all` where it has none."""
    common = limits.get(ALL_TIERS, Limits())
    return common.model_copy(update=_given(limits.get(tier, Limits())))


def merge_limits(first: LimitsByTier, second: LimitsByTier) -> dict[str, Limits]:
    """Both; where they disagree on a tier's limit, the second's."""
    return {
        tier: first.get(tier, Limits()).model_copy(update=_given(second.get(tier, Limits())))
        for tier in [*first, *(name for name in second if name not in first)]
    }


def parse_flags(flags: Mapping[str, Sequence[str]]) -> dict[str, Limits]:
    """`{"size": ["mcu=100KB", "200KB"]}` -> limits of `mcu` and of `all`. Raises UsageError."""
    values: dict[str, dict[str, str]] = {}
    for limit, given in flags.items():
        for text in given:
            tier, _, value = text.rpartition("=")
            values.setdefault(tier.strip() or ALL_TIERS, {})[limit] = value
    return {tier: _limits(own, _flag_of(own)) for tier, own in values.items()}


def _flag_of(values: Mapping[str, str]) -> Callable[[str], str]:
    return lambda limit: f"limit on {limit}"


def read_limits(path: Path, tiers: Collection[str] | None = None) -> dict[str, Limits]:
    """Read a YAML file shaped as a recipe's `gate:`, `{mcu: {size: 100KB, drop: 2pt}, all: {accuracy: 97%}}`.

    Raises UsageError with the line of an unknown limit, a bad value, or a tier that is not one of `tiers`.
    """
    import yaml

    try:
        root = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
        entries = root.value if isinstance(root, yaml.MappingNode) else []
        values = [yaml.safe_load(yaml.serialize(node)) for _, node in entries]
    except OSError as error:
        raise UsageError(f"cannot be read ({error.strerror})", where=str(path)) from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UsageError(f"is not YAML ({' '.join(str(error).split())[:200]})", where=str(path)) from error
    if not entries or not all(isinstance(own, dict) for own in values):
        raise UsageError(
            "is not a mapping of tiers to limits",
            where=str(path),
            fix="write it like `mcu: {size: 100KB, drop: 2pt}`",
        )
    limits: dict[str, Limits] = {}
    for (key, node), own in zip(entries, values, strict=True):
        tier, line = str(key.value), f"{path}:{key.start_mark.line + 1}"
        if tier in limits:
            raise UsageError(f"tier {tier!r} is there twice", where=line)
        _known_tier(tier, tiers, where=line)
        limits[tier] = _limits(own, _liner(path, node))
    return limits


def _liner(path: Path, node: yaml.MappingNode) -> Callable[[str], str]:
    lines = {str(key.value): key.start_mark.line + 1 for key, _ in node.value}
    return lambda key: f"{path}:{lines.get(key, node.start_mark.line + 1)} {key}"


def _limits(values: Mapping[Any, Any], where: Callable[[str], str]) -> Limits:
    try:
        return Limits.model_validate({str(key): value for key, value in values.items()})
    except ValidationError as error:
        first = error.errors()[0]
        key = str(first["loc"][0]) if first["loc"] else ""
        if first["type"] == "extra_forbidden":
            raise UsageError(
                f"there is no limit {key!r}", where=where(key), fix=f"use {', '.join(Limits.model_fields)}"
            ) from error
        raise UsageError(first["msg"].removeprefix("Value error, "), where=where(key)) from error


def _known_tier(tier: str, tiers: Collection[str] | None, where: str = "") -> None:
    if tiers is not None and tier != ALL_TIERS and tier not in tiers:
        raise UsageError(
            f"limits are given for tier {tier!r}, and the report has {', '.join(tiers) or 'no tier'}",
            where=where,
            fix=f"use one of those, or {ALL_TIERS!r}",
        )


def _given(limits: Limits) -> dict[str, Any]:
    return {key: value for key, value in limits if value is not None}


def _rules_of(limits: Limits) -> list[tuple[Rule, float]]:
    given = _given(limits)
    return [(rule, given[rule.limit]) for rule in RULES if rule.limit in given]


def _why_absent(report: Report, rule: Rule) -> str:
    unlabelled = report.data is not None and report.data.labels == 0
    if unlabelled and rule.figure in ("accuracy", "drop_points"):
        return "cannot be told: the data has no labels"
    return UNVERIFIED if rule.verified else "was not measured: the report does not have it"


def _judge(row: Row, rule: Rule, allowed: float, absent: str) -> Verdict:
    found = rule.found(row)
    if found is None:
        return Verdict(
            tier=row.tier,
            limit=rule.limit,
            found=None,
            allowed=allowed,
            ok=False,
            sentence=f"{absent}; allowed {rule.allowed(allowed)}",
        )
    return _verdict(row.tier, rule, found, allowed, _interval(row, rule))


def _verdict(tier: str, rule: Rule, found: float, allowed: float, interval: str = "") -> Verdict:
    ok = rule.holds(found, allowed)
    excess = "" if ok else f", {'over' if rule.at_most else 'under'} by {rule.format(abs(found - allowed))}"
    sentence = f"{rule.format(found)}{interval}, allowed {rule.allowed(allowed)}{excess}"
    return Verdict(tier=tier, limit=rule.limit, found=found, allowed=allowed, ok=ok, sentence=sentence)


def _interval(row: Row, rule: Rule) -> str:
    """The 95 % interval of an accuracy or a drop, and of how many images; where a figure of the C program is from."""
    of_c_code = rule.verified or (rule.rather and getattr(row, rule.rather) is not None)
    if row.c_basis and of_c_code:
        return f" ({row.c_basis})"
    samples = f", {row.samples:,} images" if row.samples else ""
    if rule.figure == "drop_points" and row.drop_low is not None and row.drop_high is not None:
        return f" (95 % interval {points(row.drop_low)} to {points(row.drop_high)}{samples})"
    if rule.figure == "accuracy" and row.accuracy_low is not None and row.accuracy_high is not None:
        return f" (95 % interval {percent(row.accuracy_low)} to {percent(row.accuracy_high)}{samples})"
    return ""


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
