"""What a sweep found: `sweep.json` is the truth, the table, the markdown and the page are views of it.

Units as in a report: bytes, fractions of 1, percentage points, milliseconds. null: not measured.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import Field, JsonValue, ValidationError

from edgeopt.errors import UsageError
from edgeopt.report import Report, Row, Verdict, read_report
from edgeopt.report.figures import percent, verdict_of
from edgeopt.report.report import ACCURACY
from edgeopt.spec import Spec
from edgeopt.sweep.variants import Variant
from edgeopt.units import format_bytes

__all__ = [
    "COSTS",
    "Cost",
    "Figures",
    "Sweep",
    "VariantRow",
    "brief",
    "find_report",
    "front",
    "fronts_of",
    "read_sweep",
    "row_of",
]

VERSION: Final = 1
TIMING: Final = (
    "Each variant's latency is a median of rounds in turns with its own float model, one input on one thread, taken "
    "while no other variant computed."
)


class Figures(Spec):
    """One tier's artifact of one variant, as its report has it."""

    path: str
    """Of the artifact, relative to the sweep's folder."""
    precision: str = ""
    size_bytes: int
    metric: str = ACCURACY
    """What `accuracy` is of, as in a report's row."""
    accuracy: float | None = None
    accuracy_low: float | None = None
    accuracy_high: float | None = None
    agreement: float | None = None
    """With the float model; stands for the accuracy where there are no labels."""
    drop_points: float | None = None
    latency_ms: float | None = None
    latency_low_ms: float | None = None
    latency_high_ms: float | None = None
    peak_ram_bytes: int | None = None
    macs: int | None = None
    gate: Literal["pass", "fail", "cannot tell", "none"] = "none"

    @property
    def quality(self) -> float | None:
        """What is to be large: the accuracy, or the agreement."""
        return self.agreement if self.accuracy is None else self.accuracy


class VariantRow(Spec):
    """One variant."""

    name: str
    """Of its folder too."""
    values: dict[str, JsonValue]
    state: Literal["finished", "failed", "not run"]
    error: str = ""
    seconds: float = 0.0
    """Of its stages and its measurement; a stage that several variants share counts for each."""
    tiers: dict[str, Figures] = Field({})


class Sweep(Spec):
    """All variants, and those that no other one beats."""

    version: Literal[1] = VERSION
    name: str
    recipe: str
    command: str = ""
    created: str = ""
    """ISO 8601, UTC."""
    varied: dict[str, tuple[JsonValue, ...]]
    variants: tuple[VariantRow, ...]
    fronts: dict[str, dict[str, tuple[str, ...]]] = Field({})
    """Tier -> size or latency -> variants of which none is both more accurate and smaller (or faster)."""
    timing: str = TIMING

    def to_json(self) -> str:
        """What sweep.json holds."""
        return self.model_dump_json(indent=2) + "\n"


@dataclass(frozen=True)
class Cost:
    """What is to be small."""

    name: str
    figure: str

    def of(self, figures: Figures) -> float | None:
        value: float | None = getattr(figures, self.figure)
        return value


COSTS = (Cost("size", "size_bytes"), Cost("latency", "latency_ms"))


def find_report(variant: Variant, out: Path) -> Report | None:
    """The report of the variant where it is finished: of this very recipe, with its artifacts there."""
    folder = out / variant.name
    try:
        report = read_report(folder / "report.json")
    except UsageError:
        return None
    whole = all((folder / row.path).is_file() for row in report.tiers)
    return report if whole and report.recipe_hash == variant.recipe.digest() else None


def row_of(variant: Variant, report: Report | None, error: str) -> VariantRow:
    """What is known of a variant."""
    if report is None:
        state: Literal["failed", "not run"] = "failed" if error else "not run"
        return VariantRow(name=variant.name, values=dict(variant.values), state=state, error=error)
    measuring = 0.0 if any(not stage.reused for stage in report.stages) else report.seconds
    return VariantRow(
        name=variant.name,
        values=dict(variant.values),
        state="finished",
        seconds=round(sum(stage.seconds for stage in report.stages) + measuring, 3),
        tiers={row.tier: _figures(variant.name, row, report.gate) for row in report.tiers},
    )


def _figures(name: str, row: Row, gate: Sequence[Verdict]) -> Figures:
    own = {field: getattr(row, field) for field in Figures.model_fields if field not in ("path", "gate")}
    outcome = verdict_of([verdict for verdict in gate if verdict.tier == row.tier])[0]
    return Figures.model_validate({**own, "path": f"{name}/{row.path}", "gate": outcome})


def brief(report: Report | None) -> str:
    """A finished variant in a few words: `mcu 15.2 KB 98.33 %`."""
    if report is None:
        return ""
    told = []
    for row in report.tiers:
        share = row.agreement if row.accuracy is None else row.accuracy
        answers = "" if share is None else f" {percent(share)}"
        told.append(f"{row.tier} {format_bytes(row.size_bytes)}{answers}")
    return ", ".join(told)


def fronts_of(rows: Sequence[VariantRow]) -> dict[str, dict[str, tuple[str, ...]]]:
    """For each tier and each cost the variants on the Pareto front, the cheapest first."""
    tiers = dict.fromkeys(tier for row in rows for tier in row.tiers)
    found: dict[str, dict[str, tuple[str, ...]]] = {}
    for tier in tiers:
        own = {row.name: row.tiers[tier] for row in rows if tier in row.tiers}
        found[tier] = {}
        for cost in COSTS:
            points = {
                name: (quality, price)
                for name, figures in own.items()
                if (quality := figures.quality) is not None and (price := cost.of(figures)) is not None
            }
            found[tier][cost.name] = front(points)
    return found


def front(points: Mapping[str, tuple[float, float]]) -> tuple[str, ...]:
    """Names of the (quality, cost) points that no other one beats: as good in both, and better in one.

    The cheapest first; of equal ones all.
    """
    best: list[str] = []
    bar, price = float("-inf"), float("-inf")
    for name in sorted(points, key=lambda name: (points[name][1], -points[name][0])):
        quality, cost = points[name]
        if quality > bar or (quality, cost) == (bar, price):
            best.append(name)
            bar, price = quality, cost
    return tuple(best)


def read_sweep(path: Path) -> Sweep:
    """Read a sweep.json. Raises UsageError when it is none of this version."""
    try:
        content: Any = json.loads(path.read_bytes())
        return Sweep.model_validate(content)
    except OSError as error:
        raise UsageError(f"cannot be read ({error.strerror})", where=str(path)) from error
    except (ValueError, ValidationError) as error:
        raise UsageError("is no sweep.json of this edgeopt", where=str(path), fix="run the sweep again") from error
