"""`data.py:factory`: a user's own function.

    def factory():
        return train, test

`train` and `test` are map-style datasets of (image, class number), see `edgeopt.data.mapped`, or pairs of
arrays (x, y): x uint8 images [n, H, W(, C)] or floats as the model takes them, y class numbers [n] or None.
`test` may be None: the seed then decides what is kept for testing.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from edgeopt.data.arrays import ArrayOrigin, check_alike, check_labels, check_x
from edgeopt.data.mapped import MappedOrigin, count_of
from edgeopt.data.origin import Origin
from edgeopt.errors import UsageError
from edgeopt.usercode import call_user_code, import_function

__all__ = ["open_factory"]


def open_factory(reference: str) -> Origin:
    """Call the function and take in what it returns. Raises UsageError, with the line of failed code."""
    returned = call_user_code(import_function(reference), where=reference)
    if not isinstance(returned, tuple) or len(returned) != 2:
        raise UsageError("does not return (train, test)", where=reference, fix="return two datasets; test may be None")
    parts = tuple(part for part in returned if part is not None)
    if returned[0] is None:
        raise UsageError("returns no training data", where=reference)
    pairs = [_is_pair_of_arrays(part) for part in parts]
    if all(pairs):
        return _from_arrays(reference, parts)
    if any(pairs):
        raise UsageError("returns arrays on one side and a dataset on the other", where=reference)
    for part in parts:
        count_of(part, reference)
    return MappedOrigin(reference, reference, parts)


def _is_pair_of_arrays(part: Any) -> bool:
    return isinstance(part, tuple) and len(part) == 2 and hasattr(part[0], "shape")


def _from_arrays(reference: str, parts: tuple[Any, ...]) -> ArrayOrigin:
    xs = [check_x(np.asarray(x), f"{reference}: x") for x, _ in parts]
    if any((y is None) != (parts[0][1] is None) for _, y in parts):
        raise UsageError("returns labels for one of train and test only", where=reference)
    labels = None
    if parts[0][1] is not None:
        ys = [check_labels(y, len(x), f"{reference}: y") for x, (_, y) in zip(xs, parts, strict=True)]
        labels = np.concatenate(ys)
    if len(xs) == 1:
        return ArrayOrigin(reference, xs[0], labels)
    check_alike(xs[0], xs[1], reference)
    x = np.concatenate(xs)
    return ArrayOrigin(reference, x, labels, test=np.arange(len(x)) >= len(xs[0]))
