"""Where long work says how far it is.

The library talks to a `Progress`; only `edgeopt.cli` has one that draws. `SILENT` is for everybody else.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

__all__ = ["SILENT", "Progress"]

T = TypeVar("T")


class Progress:
    """Told about stages, steps and warnings; this base class ignores them all."""

    def expect(self, stages: int) -> None:
        """So many stages will follow."""

    def stage(self, title: str) -> None:
        """A new stage begins; everything until the next call belongs to it."""

    def start(self, label: str, total: int) -> None:
        """A loop of `total` steps begins inside the stage."""

    def advance(self, steps: int = 1, metric: str = "") -> None:
        """`steps` more are done; `metric` is a short live reading such as `loss 0.31`."""

    def warn(self, message: str) -> None:
        """Something the user ought to know that does not stop the work."""

    def track(self, items: Iterable[T], label: str, total: int) -> Iterator[T]:
        """Yield from `items`, advancing by one after each."""
        self.start(label, total)
        for item in items:
            yield item
            self.advance()


SILENT = Progress()
