"""What the forms are made of."""

from __future__ import annotations

from dataclasses import dataclass

from edgeopt.report.limits import Verdict
from edgeopt.report.report import Report

__all__ = ["Checked"]


@dataclass(frozen=True)
class Checked:
    """One file that was gated, and its verdicts."""

    path: str
    """As it was given."""
    verdicts: tuple[Verdict, ...]
    report: Report | None = None
    """None: a bare model file."""

    @property
    def ok(self) -> bool:
        return all(verdict.ok for verdict in self.verdicts)

    @property
    def name(self) -> str:
        return self.path if self.report is None else self.report.name
