"""What the C program has to compute: onnxruntime on the same integers, in the program's memory order."""

from __future__ import annotations

import numpy as np

from edgeopt.mcu.program import Program
from edgeopt.model.model import Model
from edgeopt.model.runtime import open_session, run

__all__ = ["SESSION", "Reference"]

SESSION = {"session.qdqisint8allowed": "1"}
"""Without it onnxruntime on x64 leaves part of an int8 graph in float."""


class Reference:
    """A model in onnxruntime, fed and read as `model_run` is: int8 [count, size], channels last."""

    def __init__(self, model: Model, program: Program) -> None:
        self.program = program
        self.shape = tuple(dim if isinstance(dim, int) else 1 for dim in model.inputs[0].shape)
        self._session = open_session(model, threads=1, entries=SESSION)

    def quantize(self, x: np.ndarray) -> np.ndarray:
        """float [count, *dims in ONNX's order] -> int8 [count, size] in memory order."""
        tensor = self.program.input
        rounded = np.rint(x.astype(np.float32) / tensor.scale) + tensor.zero
        levels: np.ndarray = np.clip(rounded, -128, 127).astype(np.int8)
        return np.moveaxis(levels, 1, -1).reshape(len(x), -1) if levels.ndim > 2 else levels.reshape(len(x), -1)

    def noise(self, count: int, seed: int = 0) -> np.ndarray:
        """int8 [count, size], every level equally likely."""
        noise = np.random.default_rng(seed).integers(-128, 128, (count, self.program.input.size))
        return noise.astype(np.int8)

    def run(self, inputs: np.ndarray) -> np.ndarray:
        """int8 [count, size] -> int8 [count, output size], both in memory order."""
        return np.stack([self._run_one(row) for row in inputs])

    def _run_one(self, row: np.ndarray) -> np.ndarray:
        source, made = self.program.input, self.program.output
        real = (row.astype(np.float32) - np.float32(source.zero)) * source.scale
        if len(self.shape) > 2:
            real = np.moveaxis(real.reshape(1, *self.shape[2:], self.shape[1]), -1, 1)
        output = run(self._session, np.ascontiguousarray(real.reshape(self.shape)))[0]
        if output.ndim > 2 and self.program.output_channels_last:
            output = np.moveaxis(output, 1, -1)
        return (np.rint(output / made.scale) + made.zero).astype(np.int8).reshape(-1)
