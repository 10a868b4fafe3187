"""A teacher that is asked once: what it answered is kept for each sample, and for each view of it.

Without augmentation a sample looks the same in every epoch, and there is one view. With augmentation the run repeats
the draws of its first V epochs (`views`), and there are V. Answers are kept as float16 and handed out so from the
first time on: a run that is killed and goes on asks again and gets the same numbers.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from edgeopt.data import Split
from edgeopt.machine import memory_bytes
from edgeopt.progress import Progress
from edgeopt.train.feed import prepare
from edgeopt.train.settings import Augment

__all__ = ["MEMORY_SHARE", "Kept", "answer_bytes", "room_bytes"]

MEMORY_SHARE = 0.25
"""Largest share of the machine's memory that answers may take."""
AT_ONCE = 128


class Kept(nn.Module):
    """Answers as `teacher` does, from memory where it has answered before.

    The memory is no part of the module's state. It stays on the CPU: a batch of answers is small.
    """

    def __init__(self, teacher: nn.Module, samples: int, views: int = 1) -> None:
        super().__init__()
        self.teacher = teacher
        self.known = np.zeros((views, samples), bool)
        self.values: list[Tensor] = []
        self.view, self.rows = 0, np.arange(0)

    @property
    def size_bytes(self) -> int:
        """What the answers take."""
        return sum(value.nbytes for value in self.values)

    def locate(self, view: int, rows: np.ndarray) -> None:
        """Which view of which samples the next batch is; `rows` int64 [n]."""
        self.view, self.rows = view % len(self.known), rows

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """The teacher's outputs for the batch that `locate` announced."""
        if not self.known[self.view, self.rows].all():
            self._learn(self.teacher(x))
        rows = torch.from_numpy(self.rows)
        return tuple(value[self.view, rows].to(x.device).float() for value in self.values)

    def fill(self, split: Split, device: torch.device, progress: Progress) -> None:
        """Ask for every sample of `split` as it is, without augmentation, in an order that never changes."""
        self.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        starts = range(0, len(split), AT_ONCE)
        for start in progress.track(starts, "asking the teacher", len(starts)):
            rows = np.arange(start, min(start + AT_ONCE, len(split)))
            samples = torch.from_numpy(np.ascontiguousarray(split.raw(rows))).to(device)
            self.locate(0, rows)
            with torch.inference_mode():
                self._learn(self.teacher(prepare(samples, split.preprocess, Augment())))

    def _learn(self, answers: tuple[Tensor, ...]) -> None:
        if not self.values:
            views, samples = self.known.shape
            # zeros take no memory until they are written to
            self.values = [torch.zeros(views, samples, *a.shape[1:], dtype=torch.float16) for a in answers]
        rows, largest = torch.from_numpy(self.rows), torch.finfo(torch.float16).max
        for value, answer in zip(self.values, answers, strict=True):
            value[self.view, rows] = answer.clamp(-largest, largest).to("cpu", torch.float16)
        self.known[self.view, self.rows] = True


def answer_bytes(teacher: nn.Module, split: Split) -> int:
    """Bytes that the answers for one view of `split` take."""
    samples = torch.from_numpy(np.ascontiguousarray(split.raw(np.arange(1))))
    with torch.inference_mode():
        answers = teacher(prepare(samples, split.preprocess, Augment()))
    return len(split) * sum(2 * int(answer[0].numel()) for answer in answers)


def room_bytes() -> int:
    """What answers may take on this machine."""
    return int(MEMORY_SHARE * memory_bytes())
