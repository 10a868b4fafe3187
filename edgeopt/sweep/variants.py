"""The variants of a recipe: every combination of the values of some keys, each read and checked as a recipe."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from edgeopt.errors import UsageError
from edgeopt.recipe import Recipe, load_recipe
from edgeopt.spec import digest

__all__ = ["Plan", "Variant", "plan_sweep", "written"]

MOST = 1000
"""Variants of one sweep: more are hardly meant."""
LONGEST = 100
"""Characters of a folder's name."""

Sets = Sequence[tuple[str, Any]]


@dataclass(frozen=True)
class Variant:
    """One combination."""

    name: str
    """Of its folder: `params=-20%,epochs=5`."""
    values: Mapping[str, Any]
    """What was varied: key -> value."""
    recipe: Recipe
    arguments: tuple[str, ...]
    """Of the `edgeopt run` that this variant is, without --out."""


@dataclass(frozen=True)
class Plan:
    """What a sweep runs."""

    name: str
    """Of the recipe."""
    reference: str
    varied: Mapping[str, Sequence[Any]]
    variants: tuple[Variant, ...]


def plan_sweep(reference: str, varied: Mapping[str, Sequence[Any]], sets: Sets = ()) -> Plan:
    """Every combination of `varied` (key -> values), on top of `sets`; the last key changes fastest.

    Raises UsageError for a key or a value that the recipe does not take, before anything runs.
    """
    for key, values in varied.items():
        _check_values(key, values)
    count = 1
    for values in varied.values():
        count *= len(values)
    if count > MOST:
        raise UsageError(f"would make {count:,} variants", where="--vary", fix=f"{MOST:,} at most: vary less at once")
    combinations = [dict(zip(varied, chosen, strict=True)) for chosen in itertools.product(*varied.values())]
    recipes = [_read(reference, [*sets, *values.items()], values) for values in combinations]
    return Plan(
        name=recipes[0].name,
        reference=reference,
        varied=varied,
        variants=tuple(
            Variant(name, values, recipe, (reference, *_flags([*sets, *values.items()])))
            for name, values, recipe in zip(_names(combinations), combinations, recipes, strict=True)
        ),
    )


def _check_values(key: str, values: Sequence[Any]) -> None:
    if not values:
        raise UsageError("has no values", where=f"--vary {key}", fix="give them with commas: key=a,b,c")
    seen = Counter(map(written, values))
    twice = next((text for text, times in seen.items() if times > 1), None)
    if twice is not None:
        raise UsageError(f"{twice} stands twice", where=f"--vary {key}")


def _read(reference: str, sets: Sets, values: Mapping[str, Any]) -> Recipe:
    try:
        return load_recipe(reference, sets)
    except UsageError as error:
        message = str(error)
        for key in values:
            message = message.replace(f"--set {key}", f"--vary {key}")
        raise UsageError(message) from error


def _flags(sets: Sets) -> list[str]:
    """The keys as `edgeopt run` takes them."""
    return [word for key, value in sets for word in ("--set", f"{key}={written(value)}")]


def written(value: Any) -> str:
    """A value as it would be typed, on one line."""
    if isinstance(value, str) and yaml.safe_load(value) == value:
        return value
    text: str = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, allow_unicode=True, width=10_000)
    return text.removesuffix("\n").removesuffix("\n...").strip()


def _names(combinations: Sequence[Mapping[str, Any]]) -> list[str]:
    """A folder's name for each: the ends of the keys that tell them apart, and the values."""
    short = _short(list(combinations[0]))
    names = [
        ",".join(f"{short[key]}={_safe(written(value))}" for key, value in values.items()) or "recipe"
        for values in combinations
    ]
    taken = Counter(name.lower() for name in names)
    return [
        name
        if taken[name.lower()] == 1 and len(name) <= LONGEST
        else f"{name[: LONGEST - 7]}-{digest(dict(values))[:6]}"
        for name, values in zip(names, combinations, strict=True)
    ]


def _short(keys: list[str]) -> dict[str, str]:
    """Key -> as many of its last parts as tell it from the others."""
    found = {}
    for key in keys:
        parts = key.split(".")
        ends = (".".join(parts[-count:]) for count in range(1, len(parts) + 1))
        found[key] = next(
            (end for end in ends if not any(other != key and f".{other}".endswith(f".{end}") for other in keys)), key
        )
    return found


def _safe(text: str) -> str:
    """Without what is no good in a folder's name."""
    return re.sub(r"[^\w.%+-]+", "_", text).strip("_") or "_"
