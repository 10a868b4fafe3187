"""The deployment form of a graph: what a runtime has to do, and nothing that only training or tracing
needed.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from edgeopt.errors import StageFailed
from edgeopt.model.child import NativeFailed, model_name, rewrite
from edgeopt.model.feeds import SIDES, random_feeds
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

__all__ = ["TOLERANCE", "random_feeds", "same_outputs", "simplify", "split_batchnorm", "try_out"]

TOLERANCE = 1e-4
"""Largest max|difference| / max|reference| that rounding explains when float operators are fused."""

LOOSER, LOOSEST = 30.0, 0.3
PATCH = 8


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
        folded = rewrite("simplify", own, name=model_name(model))
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


def try_out(model: Model, batch: int) -> tuple[dict[str, np.ndarray], list[np.ndarray]]:
    """Made-up inputs that onnxruntime can run `model` on, and its outputs. Raises StageFailed when there are none."""
    refused: StageFailed | None = None
    for side in SIDES:
        feeds = random_feeds(model, batch, side=side)
        try:
            return feeds, _run(model, feeds)
        except StageFailed as error:
            refused = refused or error
        if all(isinstance(dim, int) for info in model.inputs for dim in info.shape[1:]):
            break
    assert refused is not None
    raise refused


class _Reference:
    """The outputs that every later form has to give, for one batch of noise and where need be for a calm one."""

    def __init__(self, model: Model, batch: int | None) -> None:
        self.noise = _Trial(model, *try_out(model, batch or 2))

    @cached_property
    def calm(self) -> _Trial:
        feeds = {name: _calmed(array) for name, array in self.noise.feeds.items()}
        return _Trial(self.noise.model, feeds, _run(self.noise.model, feeds))

    def agrees(self, model: Model) -> bool:
        """Whether it computes the same, as far as rounding lets two equal networks agree.

        Noise can drive a network whose statistics come from smooth images into ranges where activations explode, and
        there any change of the order of additions shows. Where that is so a calm input decides too.
        """
        try:
            found = _run(model, self.noise.feeds)
            if same_outputs(self.noise.outputs, found):
                return True
            if not same_outputs(self.noise.outputs, found, self.noise.tolerance):
                return False
            return same_outputs(self.calm.outputs, _run(model, self.calm.feeds), self.calm.tolerance)
        except StageFailed:
            return False


@dataclass(frozen=True)
class _Trial:
    """A model, what it was run on, and what came out."""

    model: Model
    feeds: dict[str, np.ndarray]
    outputs: list[np.ndarray]

    @cached_property
    def tolerance(self) -> float:
        """TOLERANCE, or more where the model itself is as unsteady: LOOSER times what a change of its inputs in the
        seventh digit does to its outputs, at most LOOSEST.
        """
        generator = np.random.default_rng(0)
        nudged = {
            name: (array * (1 + 1e-7 * generator.choice([-1, 1], array.shape))).astype(array.dtype)
            if array.dtype.kind == "f"
            else array
            for name, array in self.feeds.items()
        }
        unsteady = 0.0
        for old, new in zip(self.outputs, _run(self.model, nudged), strict=True):
            if old.shape != new.shape:  # as many rows as it found: what it finds hangs on the last digit
                return LOOSEST
            largest = max(float(np.abs(old.astype(np.float64)).max(initial=0.0)), 1e-30)
            unsteady = max(unsteady, float(np.abs(new.astype(np.float64) - old).max(initial=0.0)) / largest)
        return min(max(TOLERANCE, LOOSER * unsteady), LOOSEST)


def _calmed(array: np.ndarray) -> np.ndarray:
    """A tenth of it, in patches of PATCH along all axes but the first two; integers stay."""
    if array.dtype.kind != "f":
        return array
    for axis in range(2, array.ndim):
        array = array.take(np.arange(array.shape[axis]) // PATCH * PATCH, axis)
    return (array * 0.1).astype(array.dtype)


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
