"""Finished stages on disk: a folder named by the hash of everything that went into it.

The same inputs find the same folder, so a run that was killed goes on where it was: a folder appears by one
rename when its stage is done, and never half-written. Checkpoints of a stage that is still working lie in a
`scratch` folder of the same name, which goes when the stage is done.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from edgeopt.atomic import writing_folder
from edgeopt.errors import StageFailed, UsageError
from edgeopt.model import Model
from edgeopt.stage import StageResult
from edgeopt.tiers import Tier

__all__ = ["Finished", "Step", "Store", "locked"]

UNFINISHED = "unfinished"
"""Stands for the key of a stage that Ctrl-C cut short: the same inputs do not find it, and go on from its scratch."""


@dataclass(frozen=True)
class Finished:
    """A stage that is done: its folder, model and facts."""

    folder: Path
    model: Model
    facts: dict[str, Any]
    seconds: float
    reused: bool

    @property
    def path(self) -> Path:
        """The model's file."""
        return self.folder / "model.onnx"


@dataclass(frozen=True)
class Step:
    """A finished stage and what the report says of it."""

    finished: Finished
    kind: str
    title: str
    settings: dict[str, Any]
    number: int = 0
    tier: Tier | None = None
    """None: shared by all tiers."""
    makes_network: bool = False


@dataclass(frozen=True)
class Store:
    """The `stages/` folder of a run."""

    folder: Path

    def do(self, title: str, key: str, work: Callable[[Path], StageResult]) -> Finished:
        """What `work(scratch)` gives, from disk when it was done before. `key` hashes all that went in."""
        with self._alone(key):
            return self.find(title, key) or self._make(title, key, work)

    @contextmanager
    def _alone(self, key: str) -> Iterator[None]:
        """Runs that share the folder (those of a sweep, by a link to it) make a stage once: the others wait for it."""
        if not self.folder.is_symlink():
            yield
            return
        with FileLock(self.folder / f".lock-{key[:12]}"):
            yield

    def _make(self, title: str, key: str, work: Callable[[Path], StageResult]) -> Finished:
        from edgeopt.model.load import save_model

        place, scratch = self.folder / f"{title}-{key[:12]}", self.scratch(key)
        began = time.monotonic()
        try:
            result = work(scratch)
        except OSError as error:
            raise StageFailed(
                f"{title} stopped: {error.strerror or error}",
                where=str(error.filename or ""),
                fix="free some space, or set TMPDIR to a larger disk; finished stages are kept",
            ) from error
        seconds = time.monotonic() - began
        with writing_folder(place) as temporary:
            save_model(result.model, temporary / "model.onnx")
            for name, content in result.files.items():
                (temporary / name).write_text(content)
            _keep_events(scratch, temporary)
            stored = UNFINISHED if result.unfinished else key
            record = {"key": stored, "seconds": round(seconds, 3), "facts": result.facts}
            (temporary / "stage.json").write_text(json.dumps(record, indent=2, default=str))
        if not result.unfinished:
            shutil.rmtree(scratch, ignore_errors=True)
        done = self._read(place, stored)
        assert done is not None
        return Finished(place, done.model, done.facts, seconds, reused=False)

    def scratch(self, key: str) -> Path:
        """Where the stage keeps checkpoints while it works; there only when it was stopped."""
        return self.folder / f".scratch-{key[:12]}"

    def past(self, title: str) -> dict[str, Any] | None:
        """The record (`seconds`, `facts`) of the latest finished stage of this title, whatever went into it."""
        found = sorted(self.folder.glob(f"{title}-*/stage.json"), key=lambda path: path.stat().st_mtime)
        for path in reversed(found):
            with suppress(OSError, ValueError, KeyError):
                record: dict[str, Any] = json.loads(path.read_text())
                return {"seconds": record["seconds"], "facts": record["facts"]}
        return None

    def find(self, title: str, key: str) -> Finished | None:
        """The finished stage that `key` hashes, or None where it has to be made."""
        return self._read(self.folder / f"{title}-{key[:12]}", key)

    def _read(self, place: Path, key: str) -> Finished | None:
        """The stage in `place`, or None when it is not there or damaged (it is then made again)."""
        from edgeopt.model.load import read_onnx

        try:
            record = json.loads((place / "stage.json").read_text())
            if record["key"] != key:
                return None
            model = read_onnx(place / "model.onnx")
            return Finished(place, model, record["facts"], record["seconds"], reused=True)
        except (OSError, ValueError, KeyError, UsageError):
            return None


def _keep_events(scratch: Path, place: Path) -> None:
    """TensorBoard's files of a stage's trainings, written while they ran, belong to the finished stage."""
    for events in scratch.glob("**/tensorboard"):
        shutil.copytree(events, place / "tensorboard" / events.parent.relative_to(scratch), dirs_exist_ok=True)


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Hold `out` for one run. Raises UsageError when another run holds it."""
    lock = FileLock(out / ".lock", timeout=0)
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout as error:
        raise UsageError(
            "another run is writing here", where=str(out), fix="wait for it, or choose another --out"
        ) from error
    except OSError as error:
        raise UsageError(f"cannot be written ({error.strerror})", where=str(out), fix="choose another --out") from error
    try:
        yield
    finally:
        lock.release()
