"""What a session is fed: samples in the dtypes it takes, or noise where there are none."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgeopt.data import Split
from edgeopt.data.data import Rows, feeds_of
from edgeopt.model.feeds import open_size

if TYPE_CHECKING:
    import onnxruntime as ort

__all__ = ["fit_feeds", "one_input"]

DTYPES = {
    "tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64, "tensor(bool)": np.bool_,
    "tensor(int8)": np.int8, "tensor(int16)": np.int16, "tensor(int32)": np.int32, "tensor(int64)": np.int64,
    "tensor(uint8)": np.uint8, "tensor(uint16)": np.uint16, "tensor(uint32)": np.uint32, "tensor(uint64)": np.uint64,
}  # fmt: skip
"""onnxruntime's name of an input's type -> numpy's."""


def fit_feeds(session: ort.InferenceSession, rows: Rows) -> dict[str, np.ndarray]:
    """Input name -> [n, ...] in the input's dtype; inputs that the session does not have are left out.

    Raises UsageError when there is nothing for an input.
    """
    inputs = session.get_inputs()
    fed = feeds_of(rows, [info.name for info in inputs])
    return {info.name: fed[info.name].astype(_dtype(info.type, fed[info.name]), copy=False) for info in inputs}


def one_input(session: ort.InferenceSession, split: Split | None = None) -> dict[str, np.ndarray]:
    """One sample for each input, repeated where the batch dim is fixed: the first of `split`, or else seeded noise
    (integers: zeros) with dynamic dims of the sizes that `random_feeds` takes."""
    if split is not None and len(split):
        first = fit_feeds(session, split.read(np.arange(1)).rows)
        fixed = {info.name: info.shape[0] for info in session.get_inputs() if info.shape}
        return {
            name: np.repeat(array, size, axis=0) if isinstance(size := fixed.get(name), int) else array
            for name, array in first.items()
        }
    random = np.random.default_rng(0)
    feeds = {}
    for info in session.get_inputs():
        shape = [d if isinstance(d, int) else open_size(axis, len(info.shape)) for axis, d in enumerate(info.shape)]
        noise = random.standard_normal(shape, dtype=np.float32)
        dtype = _dtype(info.type, noise)
        feeds[info.name] = noise.astype(dtype) if dtype.kind == "f" else np.zeros(shape, dtype)
    return feeds


def _dtype(name: str, array: np.ndarray) -> np.dtype:
    return np.dtype(DTYPES.get(name, array.dtype))
