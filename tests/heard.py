"""A progress that remembers what it was warned of."""

from __future__ import annotations

from edgeopt.progress import Progress


class Heard(Progress):
    """Keeps the warnings."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, message: str) -> None:
        self.warnings.append(message)
