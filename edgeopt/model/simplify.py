"""The deployment form of a graph: what a runtime has to do, and nothing that only training or tracing
needed.
"""

from __future__ import annotations

import numpy as np

from edgeopt.errors import StageFailed
from edgeopt.model.child import NativeFailed, model_name, read_back, run_native
from edgeopt.model.model import Model
from edgeopt.model.passes import (
    expand_batchnorm,
    fix_reshapes,
    fold_batchnorm,
    fold_transposes,
    mean_to_pool,
    remove_dead,
    remove_identities,
)
from edgeopt.model.shapes import infer_shapes
from edgeopt.progress import SILENT, Progress

__all__ = ["TOLERANCE", "random_feeds", "same_outputs", "simplify", "split_batchnorm"]

TOLERANCE = 1e-4
"""Largest max|difference| / max|reference| that rounding explains when float operators are fused."""


def simplify(model: Model, *, batch: int | None = None, progress: Progress = SILENT) -> Model:
    """A new model that computes the same with fewer and plainer operators; metadata is kept.

    Constants are folded (a transposed weight keeps its name), dead nodes, Identity and Dropout removed,
    BatchNormalization folded into the layer before it where there is one, a mean over H, W made
    GlobalAveragePool, and computed Reshape targets made constants. `batch` fixes the batch dim; None keeps it
    as it is. Each step's result is run against its input on a random batch and dropped with a warning when
    they disagree. Raises StageFailed when onnxruntime cannot run `model`.
    """
    plain = infer_shapes(model, batch)
    reference = _Reference(model, batch)
    own = _checked(_own_passes(plain), plain, reference, "simplification", progress)
    try:
        folded = read_back(run_native("simplify", own, name=model_name(model)), own)
        again = _own_passes(_lift(folded))
    except NativeFailed as error:
        progress.warn(f"{error}; going on without onnxsim")
        return own
    return _checked(again, own, reference, "onnxsim", progress)


def split_batchnorm(model: Model) -> Model:
    """A new model whose remaining BatchNormalization nodes are Mul and Add, for runtimes without the
    operator.
    """
    changed = model.copy()
    expand_batchnorm(changed.graph)
    return changed


def same_outputs(reference: list[np.ndarray], found: list[np.ndarray], tolerance: float = TOLERANCE) -> bool:
    """Whether shapes agree and max|difference| <= tolerance * max|reference| for each output."""
    for old, new in zip(reference, found, strict=True):
        if old.shape != new.shape:
            return False
        wide_old, wide_new = old.astype(np.float64), new.astype(np.float64)
        largest = max(float(np.abs(wide_old).max(initial=0.0)), 1e-30)
        if not float(np.abs(wide_new - wide_old).max(initial=0.0)) <= tolerance * largest:
            return False
    return True


class _Reference:
    """The outputs that every later form has to give, for one random batch."""

    def __init__(self, model: Model, batch: int | None) -> None:
        self.feeds = random_feeds(model, batch or 2)
        self.outputs = _run(model, self.feeds)

    def agrees(self, model: Model) -> bool:
        try:
            return same_outputs(self.outputs, _run(model, self.feeds))
        except StageFailed:
            return False


def random_feeds(model: Model, batch: int, seed: int = 0) -> dict[str, np.ndarray]:
    """One batch of normal noise (integers: zeros) for each input; dynamic dims other than the first are 1."""
    generator = np.random.default_rng(seed)
    feeds = {}
    for info in model.inputs:
        shape = [dim if isinstance(dim, int) else (batch if axis == 0 else 1) for axis, dim in enumerate(info.shape)]
        noise = generator.standard_normal(shape)
        feeds[info.name] = noise.astype(info.dtype) if info.dtype.kind == "f" else np.zeros(shape, info.dtype)
    return feeds


def _own_passes(model: Model) -> Model:
    changed = model.copy()
    for step in (remove_identities, fold_transposes, fold_batchnorm, mean_to_pool, fix_reshapes, remove_dead):
        step(changed.graph)
    return changed


def _checked(new: Model, old: Model, reference: _Reference, step: str, progress: Progress) -> Model:
    if reference.agrees(new):
        return new
    progress.warn(f"{step} changed what {model_name(old)} computes; its result is not used")
    return old


def _lift(model: Model) -> Model:
    """Constant nodes that onnxsim left behind, as initializers."""
    from onnx_ir.passes.common import LiftConstantsToInitializersPass

    lifted = model.copy()
    LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(lifted.graph)
    return lifted


def _run(model: Model, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    from edgeopt.model.runtime import open_session, run

    return run(open_session(model, threads=1, optimize=False), feeds)
