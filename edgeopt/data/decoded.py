"""Decoded images on disk, for folders that do not fit in memory: decoded once, then mapped into memory and streamed.

    $EDGEOPT_CACHE/decoded/<key>/pixels       uint8 rows [n, H, W, C], one behind the other
    $EDGEOPT_CACHE/decoded/<key>/index.json   shape, unreadable files, hash of checks.npy; its time is that of last use
    $EDGEOPT_CACHE/decoded/<key>/checks.npy   CRC-32 of each row

The key hashes the content of all files, what is done to an image, and Pillow's version: it is right or it is not there.
A folder appears by one rename. Two runs that want the same one take turns, and the second finds it done. Each row is
checked when it is first read, and one that was damaged is decoded again and written anew. All caches together stay
within a limit, those used longest ago go first; a run that has one mapped keeps its pages even then.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from filelock import FileLock, Timeout

from edgeopt.atomic import writing_folder
from edgeopt.data.cache import cache_folder
from edgeopt.errors import EdgeoptError, UsageError
from edgeopt.progress import Progress
from edgeopt.units import format_bytes, parse_bytes

__all__ = ["LIMIT", "LIMIT_VARIABLE", "Decoded", "Writer", "open_or_write"]

LIMIT_VARIABLE = "EDGEOPT_CACHE_LIMIT"
LIMIT = 50_000_000_000
"""Bytes of all decoded images, unless the variable says otherwise (such as 200GB; 0: none). 300,000 images of 224 x 224
take 45 GB."""
MOST_OF_DISK = 0.9
"""Share of what is free on the disk that decoded images may take."""


class Decoded:
    """Rows of a finished cache. In another process, or on another machine, it is opened where the folder is too."""

    def __init__(self, folder: Path, shape: tuple[int, ...]) -> None:
        self.folder, self.shape = folder, shape
        index = json.loads((folder / "index.json").read_text())
        checks = (folder / "checks.npy").read_bytes()
        if tuple(index["shape"]) != shape or hashlib.sha256(checks).hexdigest() != index["checks"]:
            raise ValueError("not what was written")
        self.unreadable = {int(at): str(reason) for at, reason in index["unreadable"].items()}
        self.checks: np.ndarray = np.load(folder / "checks.npy", allow_pickle=False)
        self._map()

    def _map(self) -> None:
        expected = int(np.prod(self.shape))
        if len(self.checks) != self.shape[0] or (self.folder / "pixels").stat().st_size != expected:
            raise ValueError("not as long as it was")
        self.rows: np.ndarray | None = np.memmap(self.folder / "pixels", np.uint8, "r", shape=self.shape)
        self._known_good = np.zeros(self.shape[0], bool)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("rows", "_known_good")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, rows=None)
        with suppress(OSError, ValueError):
            self._map()

    def read(self, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rows `at` [n, ...], copied, and which of them are as they were written, bool [n]; -1 is no row."""
        good = (at >= 0) & (self.rows is not None)
        if self.rows is None:
            return np.empty((len(at), *self.shape[1:]), np.uint8), good
        taken = np.array(self.rows[at])
        for place in np.flatnonzero(good & ~self._known_good[at]).tolist():
            good[place] = zlib.crc32(taken[place]) == self.checks[at[place]]
        self._known_good[at[good]] = True
        return taken, good

    def mend(self, at: int, row: np.ndarray) -> None:
        """Write a row anew. Where that cannot be done, it is found damaged again."""
        with suppress(OSError), (self.folder / "pixels").open("r+b") as file:
            file.seek(at * row.nbytes)
            file.write(row.tobytes())


class Writer:
    """Takes the rows of a new cache, in any order and from any thread."""

    def __init__(self, file: BinaryIO, count: int) -> None:
        self.checks = np.zeros(count, np.uint32)
        self._file, self._lock = file, threading.Lock()

    def put(self, at: int, row: np.ndarray) -> None:
        """Write a row. Raises OSError when the disk is full."""
        content = row.tobytes()
        self.checks[at] = zlib.crc32(content)
        with self._lock:
            self._file.seek(at * len(content))
            self._file.write(content)


def open_or_write(
    key: str, shape: tuple[int, ...], decode: Callable[[Writer], dict[int, str]], progress: Progress
) -> Decoded | None:
    """The cache called `key` of rows [n, H, W, C], made by `decode` unless it is there; None, with a warning, where it
    cannot be kept.

    `decode` puts every row into the writer and returns those that are unreadable, with the reason.
    """
    limit = _limit()
    if not limit:
        return None
    folder = cache_folder() / "decoded" / key
    try:
        with _turn(folder, progress):
            found = _open(folder, shape)
            if found is None and _make_room(folder, int(np.prod(shape)), limit, progress):
                _write(folder, shape, decode)
                found = _open(folder, shape)
            return found
    except (EdgeoptError, OSError) as error:
        reason = error.found if isinstance(error, EdgeoptError) else error.strerror or str(error)
        progress.warn(f"decoded images cannot be kept ({reason}): they are decoded anew for every batch")
        return None


@contextmanager
def _turn(folder: Path, progress: Progress) -> Iterator[None]:
    """Alone with the cache: another run may be writing it. The system gives a killed process's lock back."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(_lock_file(folder))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        progress.warn("another run is decoding these images: waiting for it")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _lock_file(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.lock")


def _open(folder: Path, shape: tuple[int, ...]) -> Decoded | None:
    """The cache, its time of use set to now; None when it is not there, or not whole."""
    try:
        found = Decoded(folder, shape)
        with suppress(OSError):
            os.utime(folder / "index.json")
        return found
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _write(folder: Path, shape: tuple[int, ...], decode: Callable[[Writer], dict[int, str]]) -> None:
    with writing_folder(folder) as temporary:
        with (temporary / "pixels").open("wb") as file:
            file.truncate(int(np.prod(shape)))
            writer = Writer(file, shape[0])
            unreadable = decode(writer)
        np.save(temporary / "checks.npy", writer.checks)
        checks = hashlib.sha256((temporary / "checks.npy").read_bytes()).hexdigest()
        (temporary / "index.json").write_text(json.dumps({"shape": shape, "unreadable": unreadable, "checks": checks}))


def _make_room(folder: Path, wanted: int, limit: int, progress: Progress) -> bool:
    """Remove what killed runs left, then the caches used longest ago, until `wanted` bytes fit; whether they do."""
    root = folder.parent
    _remove_leftovers(root, folder.name)
    caches = sorted((path for path in root.glob("*/index.json") if path.parent != folder), key=_last_used)
    sizes = {path.parent: _size(path.parent) for path in caches}

    def fits() -> bool:
        return sum(sizes.values()) + wanted <= limit and wanted <= MOST_OF_DISK * shutil.disk_usage(root).free

    if wanted <= limit:
        for cache in list(sizes):
            if fits():
                break
            shutil.rmtree(cache, ignore_errors=True)
            sizes.pop(cache)
    if fits():
        return True
    progress.warn(
        f"decoded images would take {format_bytes(wanted)}, the limit is {format_bytes(limit)} and "
        f"{format_bytes(shutil.disk_usage(root).free)} are free: they are decoded anew for every batch. "
        f"Set {LIMIT_VARIABLE}, or EDGEOPT_CACHE to another disk"
    )
    return False


def _remove_leftovers(root: Path, own: str) -> None:
    """Half-written caches that nobody holds the lock of; that of `own` is held here."""
    for left in root.glob(".*.tmp"):
        key = left.name[1:].split(".")[0]
        if key == own:
            shutil.rmtree(left, ignore_errors=True)
            continue
        with suppress(Timeout, OSError), FileLock(_lock_file(root / key)).acquire(timeout=0):
            shutil.rmtree(left, ignore_errors=True)


def _last_used(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _size(folder: Path) -> int:
    total = 0
    for path in folder.glob("*"):
        with suppress(OSError):
            total += path.stat().st_size
    return total


def _limit() -> int:
    """Raises UsageError when the variable is no size."""
    text = os.environ.get(LIMIT_VARIABLE)
    try:
        return LIMIT if text is None else parse_bytes(text)
    except ValueError as error:
        raise UsageError(str(error), where=LIMIT_VARIABLE, fix="write it like 200GB, or 0 for no cache") from error
