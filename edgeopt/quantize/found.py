"""What a search over placements hands back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

__all__ = ["Found"]


@dataclass(frozen=True)
class Found:
    """Which nodes stay in float, for `Builder.build(floating)`, and how that was found out."""

    floating: frozenset[str]
    facts: dict[str, Any] = field(default_factory=dict)
    """JSON-ready, units in the names."""
