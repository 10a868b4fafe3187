"""Run a model with onnxruntime: the one way sessions are made.

Threads default to what the machine has; spinning is off, so that two sessions side by side (a float model and
its candidate) do not steal one another's cores.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgeopt.errors import StageFailed
from edgeopt.machine import cpu_count
from edgeopt.model.external import detached, fits_inline
from edgeopt.model.model import Model
from edgeopt.model.providers import CPU

if TYPE_CHECKING:
    import onnxruntime as ort

__all__ = ["open_session", "run"]


def open_session(
    model: Model | Path | bytes,
    *,
    threads: int | None = None,
    optimize: bool = True,
    entries: Mapping[str, str] | None = None,
    providers: Sequence[str] = CPU,
    profile_to: Path | None = None,
) -> ort.InferenceSession:
    """An onnxruntime session, on the CPU unless `providers` say otherwise. `entries` are session options such as a
    tier's `session`. With `profile_to`, `end_profiling()` writes a profile of all runs to a file whose name begins so.

    Raises StageFailed with onnxruntime's own sentence when the graph is refused.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4  # what fails is raised, in its words; onnxruntime would print it besides
    options.intra_op_num_threads = threads or cpu_count()
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0" if (threads or 2) > 1 else "1")
    if not optimize:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    if profile_to is not None:
        options.enable_profiling, options.profile_file_prefix = True, str(profile_to)
    for key, value in (entries or {}).items():
        options.add_session_config_entry(key, value)
    source, weights = _source(model, options) if isinstance(model, Model) else (model, [])
    try:
        session = ort.InferenceSession(
            str(source) if isinstance(source, Path) else source, options, providers=list(providers)
        )
    except Exception as error:  # onnxruntime raises many types with no common base
        where = str(model) if isinstance(model, Path) else ""
        raise StageFailed(f"onnxruntime refuses the model ({_one_line(error)})", where=where) from error
    session.weights = weights  # read where they lie, so they have to live as long as the session
    return session


def _source(model: Model, options: ort.SessionOptions) -> tuple[bytes, list[ort.OrtValue]]:
    """The model serialized; over 2 GB without its weights, which `options` then holds as the arrays that they are."""
    import onnxruntime as ort

    if fits_inline(model):
        return model.to_bytes(), []
    proto, weights = detached(model)
    values = [ort.OrtValue.ortvalue_from_numpy(tensor.numpy()) for tensor in weights.values()]
    options.add_external_initializers(list(weights), values)
    return bytes(proto.SerializeToString()), values


def run(session: ort.InferenceSession, x: np.ndarray | Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """All outputs for one batch; a bare array goes to the first input. Raises StageFailed."""
    feeds = x if isinstance(x, Mapping) else {session.get_inputs()[0].name: x}
    try:
        return list(session.run(None, dict(feeds)))
    except Exception as error:
        raise StageFailed(f"onnxruntime could not run the model ({_one_line(error)})") from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
