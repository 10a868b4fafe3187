"""Run a model's C program on this machine against onnxruntime."""

from __future__ import annotations

import tempfile
from pathlib import Path

from edgeopt.mcu.build import run_on_host
from edgeopt.mcu.compile import Compiled, compile_model
from edgeopt.mcu.reference import Reference
from edgeopt.model import Model


def differences(model: Model, count: int = 8, flags: tuple[str, ...] = ("-O1",)) -> tuple[int, Compiled]:
    """Outputs of the host build that differ from onnxruntime's for `count` random inputs, and the program."""
    compiled = compile_model(model)
    reference = Reference(model, compiled.program)
    inputs = reference.noise(count, seed=1)
    with tempfile.TemporaryDirectory() as folder:
        found = run_on_host(compiled, inputs, Path(folder), flags=flags)
    return int((found != reference.run(inputs)).sum()), compiled
