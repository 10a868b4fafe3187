"""Run native code that may crash or hang in a child process, so that a bad graph cannot take the run with it.

onnxsim, onnx.shape_inference, onnx.version_converter and onnx.checker are C++ that trusts its input: a
malformed or merely unusual graph can end in a segmentation fault, an endless loop or an allocation of all
there is. Here each of these becomes a `NativeFailed` that names operation and model, and a caller may go on
without the result.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from edgeopt.errors import StageFailed
from edgeopt.model.external import fits_inline, restore_weights, without_weights
from edgeopt.model.model import Model
from edgeopt.model.passes.names import name_nodes

__all__ = ["NativeFailed", "check", "convert_opset", "rewrite", "run_native"]

NATIVE = Path(__file__).with_name("native.py")
SECONDS = 120.0
"""Time limit of one operation; the slowest seen (onnxsim on a 600 MB network) takes a fifth of it."""
FREE_MEMORY = 4 * 2**30
COPIES = 12
"""Address space allowed to a child: FREE_MEMORY and COPIES times the model's bytes."""

Reason = Literal["crash", "hang", "refused"]


class NativeFailed(StageFailed):
    """Native code crashed, ran into its time limit, or raised; `reason` says which."""

    def __init__(self, found: str, *, reason: Reason, where: str = "", fix: str = "") -> None:
        self.reason: Reason = reason
        super().__init__(found, where=where, fix=fix)


def run_native(
    operation: str,
    model: Model | bytes,
    *,
    name: str = "",
    settings: Mapping[str, Any] | None = None,
    seconds: float = SECONDS,
    source: Path = NATIVE,
) -> bytes:
    """The bytes that `operation` (a function of `source`) makes of a serialized model.

    `name` is how an error calls the model. Raises NativeFailed on a crash, a hang (over `seconds`) or a
    refusal, StageFailed when the model is over the 2 GB that a serialized ONNX model can have.
    """
    name = name or (model_name(model) if isinstance(model, Model) else "the model")
    if isinstance(model, Model) and not fits_inline(model):
        raise StageFailed("is over 2 GB, which native code cannot take", where=name)
    content = _serialize(model, name) if isinstance(model, Model) else model
    memory = FREE_MEMORY + COPIES * len(content)
    with tempfile.TemporaryDirectory(prefix="edgeopt-") as folder:
        Path(folder, "in.onnx").write_bytes(content)
        Path(folder, "settings.json").write_text(json.dumps(dict(settings or {})))
        command = [sys.executable, "-P", str(NATIVE), str(source), operation, folder, str(memory)]
        try:
            ended = subprocess.run(command, capture_output=True, timeout=seconds, check=False, cwd=folder)  # noqa: S603
        except subprocess.TimeoutExpired as error:
            raise NativeFailed(f"{operation} took over {seconds:g} s", reason="hang", where=name) from error
        result = Path(folder, "out.onnx")
        if ended.returncode == 0 and result.exists():
            return result.read_bytes()
    raise _failure(operation, name, ended)


def check(model: Model | bytes, *, name: str = "", full: bool = False) -> None:
    """onnx.checker; `full` adds strict shape inference. Raises NativeFailed."""
    run_native("check", model, name=name, settings={"full": full})


def convert_opset(model: Model, opset: int) -> Model:
    """The model in another opset, as far as onnx.version_converter can. Raises NativeFailed."""
    return rewrite("convert_opset", model, settings={"opset": opset})


def rewrite(operation: str, model: Model, *, name: str = "", settings: Mapping[str, Any] | None = None) -> Model:
    """What `operation` makes of the model; over 2 GB, of its skeleton with the large weights as inputs.

    Raises NativeFailed.
    """
    if fits_inline(model):
        return read_back(run_native(operation, model, name=name, settings=settings), model)
    skeleton, weights = without_weights(model)
    changed = read_back(run_native(operation, skeleton, name=name or model_name(model), settings=settings), model)
    return restore_weights(changed, weights)


def read_back(content: bytes, model: Model) -> Model:
    """A graph that came back from a child, with the metadata of the model that went in."""
    import onnx

    graph = Model.from_proto(onnx.load_from_string(content)).graph
    name_nodes(graph)
    return Model(graph, model.meta)


def model_name(model: Model) -> str:
    """How messages call a model: its graph's name, or where it came from."""
    return model.meta.provenance.get("source") or model.graph.graph.name or "the model"


def _serialize(model: Model, name: str) -> bytes:
    try:
        return model.to_bytes()
    except Exception as error:  # protobuf raises ValueError, EncodeError or its own, by version
        raise StageFailed(f"cannot be serialized ({' '.join(str(error).split())[:200]})", where=name) from error


def _failure(operation: str, name: str, ended: subprocess.CompletedProcess[bytes]) -> NativeFailed:
    lines = " ".join(ended.stderr.decode(errors="replace").split())[-300:]
    if ended.returncode < 0:
        try:
            cause = signal.Signals(-ended.returncode).name
        except ValueError:
            cause = f"signal {-ended.returncode}"
        return NativeFailed(f"{operation} crashed ({cause})", reason="crash", where=name)
    if ended.returncode == 3:
        return NativeFailed(f"{operation} refused ({lines or 'no reason given'})", reason="refused", where=name)
    return NativeFailed(f"{operation} ended with exit code {ended.returncode} ({lines})", reason="crash", where=name)
