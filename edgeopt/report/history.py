"""history.jsonl: one line a gated commit, so that size and accuracy can be followed over time without a server.

A line is appended by writing the whole file anew beside it and renaming, under a lock: two jobs that end at the same
moment both get their line, and a crash leaves what was there.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import Field, ValidationError

from edgeopt.atomic import write_atomic
from edgeopt.errors import StageFailed, UsageError
from edgeopt.report.report import ACCURACY, Figure, Report, Row
from edgeopt.spec import Spec

__all__ = ["Entry", "TierFigures", "append_entry", "entry_of", "find_commit", "read_history", "tiers_of"]

PATIENCE_S: Final = 30
COMMIT_VARIABLES = ("GITHUB_SHA", "CI_COMMIT_SHA", "BUILD_SOURCEVERSION", "GIT_COMMIT", "BITBUCKET_COMMIT")
"""Where GitHub, GitLab, Azure, Jenkins and Bitbucket say which commit a job builds."""
GIT_TIMEOUT_S = 5


class TierFigures(Spec):
    """The figures of one artifact that are followed; units as in a report's row."""

    size_bytes: Annotated[int, Field(ge=0)]
    sha256: str = ""
    metric: str = ACCURACY
    """What `accuracy` is of."""
    accuracy: Figure | None = None
    accuracy_low: Figure | None = None
    accuracy_high: Figure | None = None
    drop_points: Figure | None = None
    latency_ms: Figure | None = None
    speedup: Figure | None = None
    macs: int | None = None
    params: int | None = None
    ram_bytes: int | None = None
    flash_bytes: int | None = None
    instructions: int | None = None


class Entry(Spec):
    """One line."""

    version: Literal[1] = 1
    time: str
    """ISO 8601, UTC."""
    commit: str = ""
    name: str
    """Of the report."""
    ok: bool
    """Whether the gate let it through."""
    tiers: dict[str, TierFigures]


def entry_of(report: Report, *, ok: bool, commit: str = "", time: str = "") -> Entry:
    """The line for a report that was just gated. `time`: now, unless given."""
    return Entry(
        time=time or datetime.now(UTC).isoformat(timespec="seconds"),
        commit=commit,
        name=report.name,
        ok=ok,
        tiers={row.tier: _figures(row) for row in report.tiers},
    )


def _figures(row: Row) -> TierFigures:
    own = {name: getattr(row, name) for name in TierFigures.model_fields if name != "ram_bytes"}
    return TierFigures(**own, ram_bytes=row.peak_ram_bytes if row.ram_bytes is None else row.ram_bytes)


def find_commit(environment: Mapping[str, str], folder: Path) -> str:
    """The commit that is built: as the CI system says, else as git says of `folder`; empty: nobody knows."""
    for variable in COMMIT_VARIABLES:
        if environment.get(variable):
            return environment[variable]
    try:
        command = ["git", "-C", str(folder), "rev-parse", "HEAD"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=GIT_TIMEOUT_S, check=True)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def append_entry(path: Path, entry: Entry) -> None:
    """Add a line at the end. Raises UsageError when the file is no history, StageFailed when it cannot be written."""
    from filelock import FileLock, Timeout

    lock = path.with_name(f".{path.name}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(lock, timeout=PATIENCE_S):
            before = path.read_bytes() if path.exists() else b""
            if before:
                read_history(path)
            gap = b"" if before.endswith(b"\n") or not before else b"\n"
            write_atomic(path, before + gap + entry.model_dump_json(exclude_none=True).encode() + b"\n")
    except Timeout as error:
        raise StageFailed("another job holds it", where=str(lock), fix="try again when that one is done") from error
    except OSError as error:
        raise StageFailed(f"cannot be written ({error.strerror})", where=str(path)) from error


def read_history(path: Path) -> tuple[Entry, ...]:
    """Every line in order. Raises UsageError with the number of the first that is none."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError as error:
        raise UsageError(
            "there is no such file", where=str(path), fix="`edgeopt gate report.json --history FILE` makes one"
        ) from error
    except OSError as error:
        raise UsageError(f"cannot be read ({error.strerror})", where=str(path)) from error
    except UnicodeDecodeError as error:
        raise UsageError("is not text", where=str(path), fix="give a history.jsonl") from error
    entries = [_read_line(line, f"{path}:{number}") for number, line in enumerate(lines, 1) if line.strip()]
    if not entries:
        raise UsageError("has no line yet", where=str(path), fix="`edgeopt gate report.json --history FILE` adds one")
    return tuple(entries)


def _read_line(line: str, where: str) -> Entry:
    fix = "take the line out, or give a history.jsonl that `edgeopt gate --history` wrote"
    try:
        content = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UsageError("is not JSON, or was cut short", where=where, fix=fix) from error
    try:
        return Entry.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise UsageError(f"{key}: {first['msg']}", where=where, fix=fix) from error


def tiers_of(entries: Sequence[Entry]) -> list[str]:
    """Every tier that some line has, in the order in which they came up."""
    return list(dict.fromkeys(tier for entry in entries for tier in entry.tiers))
