"""The native code that is known to crash or hang on bad graphs; runs in a process of its own.

`edgeopt.model.child` starts this file as a script: `python -P native.py SOURCE OPERATION FOLDER MEMORY`.
The operation is a function of SOURCE (this file, or a test's) that takes the bytes of FOLDER/in.onnx and
the settings in FOLDER/settings.json and returns the bytes for FOLDER/out.onnx. Nothing of edgeopt is
imported here, so that the process is up in a quarter of a second.
"""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path
from typing import Any

__all__ = ["check", "convert_opset", "infer_shapes", "simplify"]

REFUSED = 3
"""Exit code when the operation raised; the reason is on stderr."""


def check(model: bytes, settings: dict[str, Any]) -> bytes:
    """onnx.checker with full shape checks; hands the model back."""
    import onnx

    onnx.checker.check_model(model, full_check=bool(settings.get("full", False)))
    return model


def infer_shapes(model: bytes, settings: dict[str, Any]) -> bytes:
    """onnx.shape_inference, with the values of shape computations propagated."""
    import onnx
    import onnx.shape_inference

    inferred = onnx.shape_inference.infer_shapes(onnx.load_from_string(model), data_prop=True)
    return bytes(inferred.SerializeToString(deterministic=True))


def convert_opset(model: bytes, settings: dict[str, Any]) -> bytes:
    """onnx.version_converter to `settings["opset"]`."""
    import onnx
    import onnx.version_converter

    converted = onnx.version_converter.convert_version(onnx.load_from_string(model), settings["opset"])
    return bytes(converted.SerializeToString(deterministic=True))


def simplify(model: bytes, settings: dict[str, Any]) -> bytes:
    """onnxsim: constant folding and the onnx optimizer's fusions."""
    for heavy in ("torch", "sympy", "tensorflow"):  # imported when present, never used here: 3 s
        sys.modules.setdefault(heavy, None)  # type: ignore[arg-type]
    import onnx
    import onnxsim

    # Each layer keeps a bias of its own: equal ones (zeros, before training) must not become one tensor.
    shared = ["eliminate_duplicate_initializer"]
    simplified, _ = onnxsim.simplify(onnx.load_from_string(model), skipped_optimizers=shared)
    return bytes(simplified.SerializeToString(deterministic=True))


def _limit_memory(limit: int) -> None:
    """Cap the address space, where the platform has such a cap."""
    try:
        import resource
    except ImportError:
        return
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    cap = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
    resource.setrlimit(resource.RLIMIT_AS, (cap, hard))


def main(source: str, operation: str, folder: str, memory: str) -> int:
    """Run one operation; 0 when out.onnx is there, REFUSED when it raised."""
    _limit_memory(int(memory))
    content, settings = Path(folder, "in.onnx").read_bytes(), Path(folder, "settings.json").read_text()
    functions = globals() if Path(source).samefile(__file__) else runpy.run_path(source)
    try:
        result = functions[operation](content, json.loads(settings))
    except BaseException as error:
        sys.stderr.write(f"{type(error).__name__}: {error}")
        return REFUSED
    Path(folder, "out.onnx").write_bytes(result)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
