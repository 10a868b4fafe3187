"""Quantize one model with one peer; run by benchmarks/ptq.py with the peer's own Python.

    python quantize.py PEER METHOD model.onnx images.npy out.onnx

`images.npy` is float32 [n, 3, h, w]. Each peer gets the settings that its documentation gives for a CPU: int8 weights
with a scale per channel, calibrated activations, Q/DQ nodes.
"""

from __future__ import annotations

import sys

import numpy as np


class Reader:
    """The images one at a time, as onnxruntime's calibration wants them (read from a memory map)."""

    def __init__(self, images: np.ndarray, name: str) -> None:
        self.images, self.name, self.next = images, name, 0

    def get_next(self) -> dict[str, np.ndarray] | None:
        if self.next == len(self.images):
            return None
        self.next += 1
        return {self.name: np.asarray(self.images[self.next - 1 : self.next])}


def onnxruntime(method: str, source: str, images: np.ndarray, out: str) -> None:
    """quantize_static after its own preprocessing; uint8 activations and int8 weights, its advice for x64."""
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared = out + ".pre.onnx"
    quant_pre_process(source, prepared, skip_symbolic_shape=True)
    name = onnx.load(prepared, load_external_data=False).graph.input[0].name
    kind = {
        "minmax": CalibrationMethod.MinMax,
        "entropy": CalibrationMethod.Entropy,
        "percentile": CalibrationMethod.Percentile,
    }
    quantize_static(
        prepared,
        out,
        Reader(images, name),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=kind[method],
    )


def nncf(method: str, source: str, images: np.ndarray, out: str) -> None:
    """nncf.quantize; `mixed` is its preset for networks with activations other than ReLU."""
    import nncf
    import onnx

    model = onnx.load(source)
    name = model.graph.input[0].name
    data = nncf.Dataset(range(len(images)), lambda i: {name: np.asarray(images[i : i + 1])})
    preset = nncf.QuantizationPreset.MIXED if method == "mixed" else nncf.QuantizationPreset.PERFORMANCE
    onnx.save(nncf.quantize(model, data, preset=preset, subset_size=len(images)), out)


def modelopt(method: str, source: str, images: np.ndarray, out: str) -> None:
    """modelopt.onnx.quantization.quantize with fp32 for what is not int8; entropy is its default."""
    from modelopt.onnx.quantization import quantize

    quantize(
        source,
        quantize_mode="int8",
        calibration_data=np.asarray(images),
        calibration_method=method,
        calibration_eps=["cpu"],
        high_precision_dtype="fp32",
        output_path=out,
    )


def aimet(method: str, source: str, images: np.ndarray, out: str) -> None:
    """QuantizationSimModel, W8A8, exported as Q/DQ; `minmax` or `tf_enhanced` (its search by error)."""
    import aimet_onnx
    import onnx
    from aimet_onnx.quantsim import QuantizationSimModel

    model = onnx.load(source)
    name = model.graph.input[0].name
    sim = QuantizationSimModel(
        model,
        param_type=aimet_onnx.int8,
        activation_type=aimet_onnx.int8,
        quant_scheme="min_max" if method == "minmax" else "tf_enhanced",
        providers=["CPUExecutionProvider"],
    )
    sim.compute_encodings([{name: np.asarray(images[i : i + 1])} for i in range(len(images))])
    onnx.save(sim.to_onnx_qdq(), out)


class Images:
    """The images as edgeopt reads samples: a batch at a time, from the memory map."""

    def __init__(self, images: np.ndarray) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def read(self, indices: np.ndarray) -> np.ndarray:
        return np.asarray(self.images[indices])


def edgeopt(method: str, source: str, images: np.ndarray, out: str) -> None:
    """The quantize stage. `fast`, `balanced` and `best` put everything in integers that has a kernel, as peers do;
    `rules` and `measured` are `balanced` with int8 and float mixed for speed."""
    from pathlib import Path

    from edgeopt.data import Data, Split
    from edgeopt.model.load import read_onnx, save_model
    from edgeopt.quantize import Quantize
    from edgeopt.stage import Context

    split = Split(Images(images), np.arange(len(images)), None, None)
    data = Data("images", split, split, split, (), None, "")
    mixed = method in ("rules", "measured")
    settings = {"preset": "balanced", "speed": method} if mixed else {"preset": method, "speed": "integers"}
    stage = Quantize(samples=len(images), **settings)
    save_model(stage.apply(read_onnx(Path(source)), Context(data=data)).model, Path(out))


def main() -> None:
    peer, method, source, data, out = sys.argv[1:]
    images = np.load(data, mmap_mode="r")
    run = {"onnxruntime": onnxruntime, "nncf": nncf, "modelopt": modelopt, "aimet": aimet, "edgeopt": edgeopt}[peer]
    run(method, source, images, out)


if __name__ == "__main__":
    main()
