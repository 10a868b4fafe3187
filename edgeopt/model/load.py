"""The one door in: every kind of reference becomes a `Model` here, and nowhere else.

ONNX files are read; modules (torchvision, timm, a user's factory, our own networks) and .pt2 programs are
exported once, with BatchNormalization kept as nodes, so that training still has it, and with parameter names
kept as they are in torch, so that a result can be loaded back into the module it came from.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnx_ir.passes.common as passes
from google.protobuf.message import DecodeError

from edgeopt.atomic import write_atomic
from edgeopt.errors import UsageError
from edgeopt.model.external import fits_inline, save_large
from edgeopt.model.model import Model
from edgeopt.model.passes.names import name_nodes
from edgeopt.model.passes.strided import drop_strided_views
from edgeopt.model.static_reshape import static_reshapes

__all__ = ["load_model", "read_onnx", "save_model"]

FREE_INITIALIZERS = 4
"""The first ONNX IR version in which an initializer need not be a graph input."""
MODULE_PREFIXES = ("torchvision:", "timm:", "edgeopt:")


def load_model(
    reference: str, *, weights: str | None = None, settings: Mapping[str, Any] | None = None, seed: int = 0
) -> Model:
    """Load or export the model that `reference` names.

    `x.onnx` | `x.pt2` | `torchvision:NAME` | `timm:NAME` | `edgeopt:NAME` | `net.py:factory`. `weights` is a
    state-dict file (.safetensors, .pt, .pth), `none` for random ones (drawn from `seed`), or None for what the
    source publishes.
    Raises UsageError.
    """
    path = Path(reference)
    if reference.startswith(MODULE_PREFIXES) or ".py:" in reference:
        from edgeopt.model.export import load_module

        return load_module(reference, weights, dict(settings or {}), seed)
    if weights is not None or settings:
        raise UsageError(
            "weights and settings belong to a network that is built from code",
            where=reference,
            fix="leave them out, or name the network as torchvision:NAME, timm:NAME or net.py:factory",
        )
    if path.suffix == ".onnx":
        return read_onnx(path)
    if path.suffix == ".pt2":
        from edgeopt.model.export import load_program

        return load_program(path)
    if path.suffix in (".pt", ".pth", ".bin", ".safetensors"):
        raise UsageError(
            "holds weights without their network",
            where=reference,
            fix=f"name the network too: `net.py:factory --weights {reference}`, or export it to ONNX",
        )
    raise UsageError(
        "is no model that edgeopt knows",
        where=reference,
        fix="give x.onnx, x.pt2, torchvision:NAME, timm:NAME, edgeopt:NAME or net.py:factory",
    )


def read_onnx(path: Path) -> Model:
    """Read an .onnx file, its external data included. Raises UsageError when it is missing, truncated, not ONNX,
    points outside its own folder, or has weights that are not finite."""
    if not path.is_file():
        raise UsageError("no such file", where=str(path))
    try:
        proto = onnx.load(str(path), load_external_data=False)
    except (DecodeError, OSError, ValueError) as error:
        raise UsageError("is not an ONNX file, or is truncated", where=str(path), fix="export it again") from error
    if not proto.graph.node or not proto.graph.output or not proto.opset_import:
        raise UsageError("is not an ONNX model (no graph in it)", where=str(path), fix="export it again")
    _check_external(proto, path)
    try:
        model = Model.from_proto(proto)
        ir.external_data.set_base_dir(model.graph.graph, path.parent)
        if fits_inline(model):  # what does not stays a mapped file
            model = Model(ir.external_data.load_to_model(model.graph), model.meta)
        model = tidy(model)
    except (AttributeError, ImportError):  # a defect of ours, not of the file
        raise
    except Exception as error:  # onnx_ir raises many types on malformed graphs
        message = " ".join(str(error).split())[:200]
        raise UsageError(f"is a broken ONNX model ({message})", where=str(path), fix="export it again") from error
    return check_finite(model, str(path))


def save_model(model: Model, path: Path) -> None:
    """Write the model atomically, metadata inside; over 2 GB its weights go to `<path>.data`. Raises StageFailed."""
    if fits_inline(model):
        write_atomic(path, model.to_bytes())
    else:
        save_large(model, path)


def tidy(model: Model) -> Model:
    """The form every stage may rely on: no local functions, constants as initializers, no initializer among the
    inputs, unique value and node names, topological order, nothing unused."""
    graph = ir.passes.Sequential(
        passes.InlinePass(),
        passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        passes.RemoveInitializersFromInputsPass(),
        passes.RemoveUnusedNodesPass(),
        passes.RemoveUnusedFunctionsPass(),
        passes.RemoveUnusedOpsetsPass(),
        passes.TopologicalSortPass(),
        passes.NameFixPass(),
    )(model.graph.clone()).model
    name_nodes(graph)
    graph.ir_version = max(graph.ir_version, FREE_INITIALIZERS)
    drop_strided_views(graph)
    static_reshapes(graph)
    return Model(graph, model.meta)


def check_finite(model: Model, where: str) -> Model:
    """The model, unless a weight is NaN or infinite: then a UsageError that names it."""
    values = model.graph.graph.initializers
    for name, array in model.weights().items():
        bad = int(array.size - np.isfinite(array).sum()) if array.dtype.kind == "f" else 0
        if bad and not _is_meant(values[name], array):
            raise UsageError(
                f"weight {name!r} has {bad} of {array.size} values that are NaN or infinite",
                where=where,
                fix="training diverged or the file is damaged: take an earlier checkpoint",
            )
    return model


FILLERS = frozenset({"Clip", "Expand", "Max", "Min", "Pad", "Where"})
"""Operators that may be handed an infinity for "nothing" or "no bound"; a weight is multiplied or added."""


def _is_meant(value: ir.Value, array: np.ndarray) -> bool:
    """Whether infinities are constants of the computation rather than a weight gone wrong.

    They are where only `FILLERS` read them, and in attention masks: zeros and -inf and nothing else.
    """
    if np.isnan(array).any():
        return False
    uses = list(value.uses())
    if uses and all(use.node.op_type in FILLERS for use in uses):
        return True
    finite = array[np.isfinite(array)]
    return bool(finite.size) and not finite.any() and not np.isposinf(array).any()


def _check_external(proto: onnx.ModelProto, path: Path) -> None:
    """External data has to lie inside the model's own folder (symbolic links resolved)."""
    folder = path.parent.resolve()
    for tensor in proto.graph.initializer:
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        location = next((entry.value for entry in tensor.external_data if entry.key == "location"), "")
        target = (folder / location).resolve()
        if not location or not target.is_relative_to(folder):
            raise UsageError(
                f"weight {tensor.name!r} points outside the model's folder ({location!r})",
                where=str(path),
                fix="edgeopt does not follow such paths; put the data file beside the model",
            )
        if not target.is_file():
            raise UsageError(f"its data file {location!r} is missing", where=str(path), fix="copy both files")
        entries = {entry.key: entry.value for entry in tensor.external_data}
        end = int(entries.get("offset") or 0) + int(entries.get("length") or 0)
        if end > target.stat().st_size:
            raise UsageError(
                f"its data file {location!r} is cut short: weight {tensor.name!r} ends at byte {end:,}",
                where=str(path),
                fix="copy it again",
            )
