"""Image files: decoding them, and finding the unreadable ones before anything is trained on them.

When the data is loaded every file that will be used is hashed (for the fingerprint, and to find training
images that are test images too) and decoded once. Where the decoded images fit in memory they are kept; where
not, they go to a file that is mapped into memory (`edgeopt.data.decoded`), for this run and those to come; where
there is no room for that either, the pixels are thrown away and decoded again batch by batch. Decoding that took
long is remembered in the cache folder under the hash of all contents, so that the next run over the same files only
hashes them. Content decides, never names or times.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from edgeopt.atomic import write_atomic
from edgeopt.data.cache import cache_folder
from edgeopt.data.decoded import Decoded, Writer, open_or_write
from edgeopt.data.memory import Kept
from edgeopt.data.origin import Inspection
from edgeopt.data.preprocess import fit_image
from edgeopt.errors import EdgeoptError, UsageError
from edgeopt.machine import cpu_count
from edgeopt.model import Preprocess
from edgeopt.progress import Progress
from edgeopt.spec import digest

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["MAX_PIXELS", "ImageFiles", "image_size"]

MAX_PIXELS = 89_478_485
"""Pillow's own limit against decompression bombs: a quarter of a gigabyte of decoded RGB."""
THREADED_FROM_BYTES = 16_384
"""Mean file size from which threads pay: below it Python's own work for each file, which runs in one thread
at a time, is most of the time (60,000 JPEG files of 1 KB: 3.5 s with one thread, 5.4 s with two)."""
CHUNK = 64
"""Files a thread takes at a time."""
SAMPLED = 64
"""Files whose sizes stand for all in choosing the number of threads."""
REMEMBER_FROM_S = 2.0
"""Decoding all files in less than this is repeated rather than remembered."""

T = TypeVar("T")


class ImageFiles(Kept):
    """Source of image files; `read` gives uint8 [n, H, W, C], resized and cropped by `preprocess`."""

    def __init__(self, paths: Sequence[str], root: Path, preprocess: Preprocess) -> None:
        super().__init__(len(paths), (*preprocess.size, preprocess.channels), np.dtype(np.uint8))
        self.paths, self.root, self.preprocess = paths, root, preprocess
        self._threads = cpu_count() if _mean_bytes(paths) >= THREADED_FROM_BYTES else 1
        self._decoded: Decoded | None = None
        self._row = np.zeros(0, np.int64)

    def read(self, indices: np.ndarray) -> np.ndarray:
        """Images [n, H, W, C] in the order of `indices`. Two threads may read at once."""
        if self._decoded is None:
            return super().read(indices)
        rows = self._row[indices]
        images, good = self._decoded.read(rows)
        bad = np.flatnonzero(~good)
        for at, image in zip(bad.tolist(), self.read_many(indices[bad]), strict=True):
            images[at] = image
            if rows[at] >= 0:
                self._decoded.mend(int(rows[at]), image)
        return images

    def read_many(self, indices: np.ndarray) -> Iterator[np.ndarray]:
        """Decoded images in order. Raises UsageError naming a file that changed since it was inspected."""
        # Smaller chunks than for inspecting: a batch of 64 shall keep several threads busy.
        work = _chunks(indices, CHUNK // 8)
        for images in _map(lambda part: [self._decode_to_use(i) for i in part], work, self._threads):
            yield from images

    def inspect(self, indices: np.ndarray, progress: Progress) -> Inspection:
        """Hash every file and decode it once; the unreadable ones are named with the reason."""
        progress.start("hashing images", len(indices))
        digests = np.zeros(len(indices), "V32")
        bad: dict[int, str] = {}
        for at, found in self._each(_hash_file, indices, progress):
            if isinstance(found, bytes):
                digests[at] = np.void(found)
            else:
                bad[at] = str(found)
        content = hashlib.sha256(digests.tobytes()).hexdigest()
        bad |= self._find_unreadable(indices, content, progress)
        return Inspection(digests, content, {at: f"{self.name(indices[at])}: {bad[at]}" for at in sorted(bad)})

    def name(self, index: int) -> str:
        """The file's path within the data set, fit for printing whatever bytes it is made of."""
        path = os.path.relpath(self.paths[index], self.root).replace(os.sep, "/")
        return path.encode(errors="backslashreplace").decode()

    def _find_unreadable(self, indices: np.ndarray, content: str, progress: Progress) -> dict[int, str]:
        """Position -> reason of the files that cannot be decoded, from an earlier look where there was one."""
        if not self.keeps:
            self._decoded = self._decode_to_disk(indices, content, progress)
        if self._decoded is not None:
            return self._decoded.unreadable
        known = _recall(content)
        return self._decode_all(indices, content, progress) if known is None else known

    def _decode_to_disk(self, indices: np.ndarray, content: str, progress: Progress) -> Decoded | None:
        """The mapped images in the order of `indices`, decoded now unless an earlier run did; None: no room."""
        import PIL

        self._row = np.full(len(self), -1)
        self._row[indices] = np.arange(len(indices))
        fitting = self.preprocess.model_dump(mode="json", include={"size", "resize", "color"})
        key = digest([content, fitting, PIL.__version__])

        def decode(writer: Writer) -> dict[int, str]:
            progress.start("decoding images", len(indices))
            examined = self._each(lambda path, index: self._decode_to(writer, path, index), indices, progress)
            return {at: reason for at, reason in examined if reason is not None}

        return open_or_write(key, (len(indices), *self._shape), decode, progress)

    def _decode_to(self, writer: Writer, path: str, index: int) -> str | None:
        try:
            image = fit_image(_open(path), self.preprocess)
        except Exception as error:  # decoders raise all sorts on damaged files
            return _reason(error)
        writer.put(int(self._row[index]), image)
        return None

    def _decode_all(self, indices: np.ndarray, content: str, progress: Progress) -> dict[int, str]:
        """Position -> reason of the files that cannot be decoded; pixels are kept where there is room."""
        started = time.monotonic()
        progress.start("decoding images", len(indices))
        examine = self._decode_to_keep if self.keeps else _examine
        bad = {at: reason for at, reason in self._each(examine, indices, progress) if reason is not None}
        if time.monotonic() - started >= REMEMBER_FROM_S:
            _remember(content, bad)
        return bad

    def _decode_to_keep(self, path: str, index: int) -> str | None:
        return _reason_of(lambda: self.put(index, fit_image(_open(path), self.preprocess)))

    def _decode_to_use(self, index: int) -> np.ndarray:
        try:
            return fit_image(_open(self.paths[index]), self.preprocess)
        except Exception as error:  # decoders raise all sorts on damaged files
            raise UsageError(
                f"cannot be read any more ({_reason(error)})",
                where=self.paths[index],
                fix="mend or remove it, and start again: finished stages are reused",
            ) from error

    def _each(self, look: Callable[[str, int], T], indices: np.ndarray, progress: Progress) -> Iterator[tuple[int, T]]:
        """(position, what `look` found) for every index, in order."""
        work = _chunks(indices, CHUNK)
        at = 0
        for found in _map(lambda part: [look(self.paths[i], i) for i in part], work, self._threads):
            yield from enumerate(found, at)
            at += len(found)
            progress.advance(len(found))


def image_size(path: str) -> tuple[int, int]:
    """Width and height of an image file, pixels; nothing is decoded. Raises UsageError when it cannot be read."""
    try:
        return _open(path).size
    except Exception as error:  # decoders raise all sorts on damaged files
        raise UsageError(f"cannot be read ({_reason(error)})", where=path, fix="mend or remove it") from error


def _map(work: Callable[[list[int]], T], parts: list[list[int]], threads: int) -> Iterator[T]:
    """`work` of each part, in order, on some threads; nothing is left running when the caller stops early."""
    if threads == 1 or len(parts) == 1:
        yield from map(work, parts)
        return
    pool = ThreadPoolExecutor(threads, "edgeopt-decode")
    try:
        yield from pool.map(work, parts)
    finally:
        pool.shutdown(cancel_futures=True)


def _chunks(indices: np.ndarray, size: int) -> list[list[int]]:
    return [indices[at : at + size].tolist() for at in range(0, len(indices), size)]


def _mean_bytes(paths: Sequence[str]) -> float:
    """Mean size of some of the files; one that has gone is reported when it is read."""
    some = paths[:: max(1, len(paths) // SAMPLED)]
    sizes = []
    for path in some:
        with contextlib.suppress(OSError):
            sizes.append(os.stat(path).st_size)
    return sum(sizes) / max(1, len(sizes))


def _hash_file(path: str, index: int) -> bytes | str:
    """SHA-256 of the file, or why it cannot be read."""
    try:
        with open(path, "rb", buffering=0) as file:
            return hashlib.sha256(file.read()).digest()
    except OSError as error:
        return str(error.strerror or error)


def _examine(path: str, index: int) -> str | None:
    """Why the image cannot be decoded, or None. A JPEG is decoded at an eighth: all bytes, fewer pixels."""

    def decode() -> None:
        image = _open(path)
        image.draft(None, (max(1, image.width // 8), max(1, image.height // 8)))
        image.load()

    return _reason_of(decode)


def _open(path: str) -> Image:
    """The image, its pixels not decoded yet. Raises what Pillow raises, ValueError if it is too large."""
    from PIL import Image

    # Pillow prints a warning where this raises.
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)
    # All bytes at once: Pillow keeps a file that it opened itself open until the pixels are wanted.
    with open(path, "rb", buffering=0) as file:
        image = Image.open(io.BytesIO(file.read()))
    if image.width * image.height > MAX_PIXELS:
        raise ValueError(f"{image.width} x {image.height} pixels are over the limit of {MAX_PIXELS:,}")
    if image.mode == "F":
        raise ValueError("32-bit float pixels have no agreed range")
    return image


def _reason_of(decode: Callable[[], object]) -> str | None:
    try:
        decode()
    except Exception as error:  # decoders raise all sorts on damaged files
        return _reason(error)
    return None


def _reason(error: Exception) -> str:
    from PIL import UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):
        return "not an image"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split())[:120] or type(error).__name__


def _verdict_file(content: str) -> Path:
    """Where the verdict on these contents lies; another Pillow may come to another verdict."""
    import PIL

    return cache_folder() / "unreadable" / f"{content}-{PIL.__version__}.json"


def _recall(content: str) -> dict[int, str] | None:
    """What an earlier look found, position -> reason; None when there was none."""
    try:
        return {int(at): str(reason) for at, reason in json.loads(_verdict_file(content).read_text()).items()}
    except (OSError, ValueError, AttributeError):
        return None


def _remember(content: str, bad: dict[int, str]) -> None:
    # Without a cache folder to write to, the next run looks again.
    with contextlib.suppress(EdgeoptError):
        write_atomic(_verdict_file(content), json.dumps(bad))
