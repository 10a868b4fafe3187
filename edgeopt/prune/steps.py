"""The steps of a schedule on disk, so that a stage that was killed or stopped goes on from the last one.

A step is saved when its pruning is proven and before its fine-tuning, which has checkpoints of its own beside it. What
was measured to choose channels (losses, latencies) is not measured again: it might come out otherwise.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgeopt.atomic import writing_folder
from edgeopt.model import Model
from edgeopt.prune.record import Entry

__all__ = ["Narrowed", "Steps"]


@dataclass(frozen=True, eq=False)
class Narrowed:
    """A pruned network on its way, before its fine-tuning."""

    model: Model
    record: list[Entry] = field(default_factory=list)
    """Over the original's initializers, not over those of the step before."""
    facts: tuple[dict[str, Any], ...] = ()
    """What was done in this step and each one before, JSON-ready."""
    history: tuple[dict[str, Any], ...] = ()
    """Epochs of the fine-tunings before this step."""


@dataclass(frozen=True)
class Steps:
    """A scratch folder, and the hash of all that its content belongs to. `folder` None: nothing is kept."""

    folder: Path | None
    key: str

    def latest(self, total: int) -> tuple[int, Narrowed | None]:
        """The last step that was saved, counted from 1, or (1, None)."""
        for number in range(total, 0, -1):
            found = self._read(number)
            if found is not None:
                return number, found
        return 1, None

    def save(self, number: int, step: Narrowed) -> Narrowed:
        """Write it down; hands it back as it will be read, so that a resumed run sees the same."""
        if self.folder is None:
            return step
        with writing_folder(self._place(number)) as temporary:
            _write(step, temporary)
            state = {"key": self.key, "facts": step.facts, "history": step.history}
            (temporary / "step.json").write_text(json.dumps(state))
        return self._read(number) or step

    def save_partial(self, step: Narrowed) -> Path | None:
        """Write what there is for a person to look at; its folder."""
        if self.folder is None:
            return None
        with writing_folder(self.folder / "partial") as temporary:
            _write(step, temporary)
        return self.folder / "partial"

    def checkpoints(self, number: int) -> Path | None:
        """Where the fine-tuning of a step keeps its checkpoints."""
        return None if self.folder is None else self.folder / f"tuning-{number}"

    def _place(self, number: int) -> Path:
        assert self.folder is not None
        return self.folder / f"step-{number}"

    def _read(self, number: int) -> Narrowed | None:
        from edgeopt.errors import UsageError
        from edgeopt.model.load import read_onnx

        if self.folder is None:
            return None
        place = self._place(number)
        try:
            state = json.loads((place / "step.json").read_text())
            if state["key"] != self.key:
                return None
            record = json.loads((place / "pruned.json").read_text())
            model = read_onnx(place / "model.onnx")
        except (OSError, ValueError, KeyError, UsageError):
            return None
        return Narrowed(model, record, tuple(state["facts"]), tuple(state["history"]))


def _write(step: Narrowed, folder: Path) -> None:
    from edgeopt.model.load import save_model

    save_model(step.model, folder / "model.onnx")
    (folder / "pruned.json").write_text(json.dumps(step.record))
