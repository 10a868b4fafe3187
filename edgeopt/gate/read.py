"""Limits from flags and files, and which of them hold for a tier."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from edgeopt.errors import UsageError
from edgeopt.report.limits import ALL_TIERS, Limits
from edgeopt.written import Written, read_written

__all__ = ["LimitsByTier", "bounds_nothing", "known_tier", "limits_of", "merge_limits", "parse_flags", "read_limits"]

LimitsByTier = Mapping[str, Limits]
"""Tier name, or `all`, to its limits."""

FORM = "a mapping of tiers to limits"
EXAMPLE = "write it like `mcu: {size: 100KB, drop: 2pt}`"


def limits_of(tier: str, limits: LimitsByTier) -> Limits:
    """The limits that hold for `tier`: its own, and those of `all` where it has none."""
    common = limits.get(ALL_TIERS, Limits())
    return common.model_copy(update=_given(limits.get(tier, Limits())))


def bounds_nothing(limits: LimitsByTier) -> bool:
    """Whether no tier has a limit to check; `allow_uncertain` alone is none."""
    return not any(key != "allow_uncertain" for own in limits.values() for key in _given(own))


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
    limits: dict[str, Limits] = {}
    for tier, own in read_written(path, FORM, EXAMPLE).value.items():
        if not isinstance(own.value, dict):
            raise UsageError(f"is not {FORM}", where=own.place, fix=EXAMPLE)
        known_tier(tier, tiers, where=own.place)
        limits[tier] = _limits(own.plain(), _liner(own))
    return limits


def _liner(written: Written) -> Callable[[str], str]:
    return lambda key: f"{written.at((key,)).place} {key}"


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


def known_tier(tier: str, tiers: Collection[str] | None, where: str = "") -> None:
    if tiers is not None and tier != ALL_TIERS and tier not in tiers:
        raise UsageError(
            f"limits are given for tier {tier!r}, and the report has {', '.join(tiers) or 'no tier'}",
            where=where,
            fix=f"use one of those, or {ALL_TIERS!r}",
        )


def _given(limits: Limits) -> dict[str, Any]:
    return {key: value for key, value in limits if value is not None}
