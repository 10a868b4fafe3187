"""Which test images two models answer differently, in a form that a report can hold.

However many images there are, one bit an image is kept (`pack_bits`), and of those whose answer changed the first few:
an image that the float model had right and the artifact has wrong is what a reader wants to see first.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np

from edgeopt.measure.accuracy import Outcome
from edgeopt.report import Change, ClassChange

__all__ = ["change_facts", "pack_bits"]

MOST_CHANGES = 100
MOST_CLASSES = 50


def pack_bits(correct: np.ndarray | None) -> str:
    """bool [n] as `Row.correct_bits` has it; "" for None."""
    return "" if correct is None else base64.b64encode(np.packbits(correct).tobytes()).decode()


def change_facts(own: Outcome, base: Outcome, truth: np.ndarray | None, names: Sequence[str]) -> dict[str, Any]:
    """`changed`, `changes` and `classes` of a Row: `own` beside `base`, both on the same images in one order.

    `truth` int64 [n] are the labels, `names` the classes. Nothing where neither is there, or for boxes: answers are
    then no classes.
    """
    if own.answers is None or base.answers is None or (truth is None and not names):
        return {}
    changed = np.flatnonzero(own.answers != base.answers)
    ordered = changed if truth is None else changed[np.argsort(_rank(own, base, truth)[changed], kind="stable")]
    facts: dict[str, Any] = {
        "changed": len(changed),
        "changes": tuple(
            Change(
                image=int(image),
                right=None if truth is None else _name(truth[image], names),
                before=_name(base.answers[image], names),
                after=_name(own.answers[image], names),
            )
            for image in ordered[:MOST_CHANGES]
        ),
    }
    return facts if truth is None else facts | {"classes": _classes(own, base, truth, names)}


def _rank(own: Outcome, base: Outcome, truth: np.ndarray) -> np.ndarray:
    """0 for an image that was lost, 1 for one gained, 2 for the others."""
    return np.where(base.answers == truth, 0, np.where(own.answers == truth, 1, 2))


def _classes(own: Outcome, base: Outcome, truth: np.ndarray, names: Sequence[str]) -> tuple[ClassChange, ...]:
    right, before = own.answers == truth, base.answers == truth
    size = int(truth.max()) + 1
    images, lost, gained = (
        np.bincount(truth[which], minlength=size) for which in (..., before & ~right, right & ~before)
    )
    found = [
        ClassChange(name=_name(n, names), images=int(images[n]), lost=int(lost[n]), gained=int(gained[n]))
        for n in map(int, np.flatnonzero(lost + gained))
    ]
    return tuple(sorted(found, key=lambda own: (own.gained - own.lost, -own.lost))[:MOST_CLASSES])


def _name(number: int, names: Sequence[str]) -> str:
    return names[number] if 0 <= number < len(names) else str(number)
