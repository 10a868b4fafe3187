"""Bias correction: what rounding shifts on average is taken back, layer by layer, where it costs nothing at run time.

The rounded weights and inputs of a layer make an output that is off by some noise, and on average by something that is
not noise: a shift of each channel and, as clipping takes away from large values only, a shrinkage. Both are known
after a look at a few samples, and a channel's bias and weight scale take them up exactly. Layers are corrected in the
order of the graph, each under the corrections before it, so what an earlier layer could not take back is taken
back by the next.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Literal

import numpy as np
from pydantic import Field

from edgeopt.model.layerwise.pile import pile_up
from edgeopt.model.layerwise.segments import Segments
from edgeopt.model.model import Model
from edgeopt.quantize.build import Built
from edgeopt.quantize.layers import IntegerLayer, integer_layers, with_layers, with_scales
from edgeopt.quantize.memory import least_pieces, plan_pieces
from edgeopt.quantize.samples import Samples
from edgeopt.quantize.weights import BIAS_LIMIT
from edgeopt.spec import Spec
from edgeopt.stage import Context, StageResult

__all__ = ["BiasCorrection"]

BATCH = 8
"""Samples that run at a time, fewer where a layer's output is large."""
BATCH_BYTES = 16 * 2**20
"""Of the largest layer's output."""
PUT_ASIDE = 256 * 2**20
"""Of the activations of both models, all samples together, in temporary files."""
LEAST_IMAGES = 8
WIDEST = 1.1
"""A scale changes by at most this factor: more is not shrinkage but a layer that went wrong."""


class BiasCorrection(Spec):
    """Makes the mean (and the scale) of each layer's output channels what it is in the float model, by their biases.

    Source: Nagel et al. 2019, Data-Free Quantization, arXiv:1906.04721, section 4.2 and appendix D (empirical, in the
    order of the graph). With `scales` also the weight scale of each channel is fitted, by least squares. What few
    samples cannot tell from chance is left: both corrections shrink by their own standard error.
    """

    kind: Literal["bias_correction"] = "bias_correction"
    images: int = Field(
        64,
        ge=1,
        description="calibration samples to fit on; fewer where more than 256 MB would be put aside of a layer",
    )
    scales: bool = Field(True, description="also fit each channel's weight scale, where there is one for each channel")

    def least_bytes(self, model: Model, samples: Samples) -> int:
        """Memory that it takes at least, beside what the process holds."""
        return least_pieces(model, samples)

    def refine(
        self, model: Model, built: Built, samples: Samples, context: Context, room: float = math.inf
    ) -> StageResult:
        """The Q/DQ model with corrected biases and weight scales; the weights' integers stay.

        `model` is the float model that `built` was made from; `room` is the memory that may be taken, bytes. Facts: how
        many layers were corrected, and their mean signal to noise ratio before and after, dB (each under the
        corrections before it).
        """
        layers = integer_layers(built.model)
        largest = _largest_output(model, {layer.name for layer in layers})
        few = samples.take(min(self.images, max(LEAST_IMAGES, int(PUT_ASIDE / (2.5 * largest)))))
        pieces = plan_pieces(model, few, max(1, min(BATCH, BATCH_BYTES // largest)), room)
        inputs = pile_up(few.fitting(model, pieces.batch_size), pieces.in_memory)
        true, rounded = (Segments(graph, inputs, pieces.in_memory) for graph in (model, built.model))
        biases: dict[str, tuple[np.ndarray | None, np.ndarray | None]] = {}
        scales: dict[str, np.ndarray] = {}
        before, after = [], []
        for layer in context.progress.track(layers, "correcting biases", len(layers)):
            output = rounded.node(layer.name).output[0]
            seen, axis = _look(layer, true, rounded)
            gain, shift = _fit(seen, layer, len(few), scales=self.scales)
            gain, shift, bias = _round(layer, gain, shift)
            if bias is not None:
                biases[layer.name] = None, bias
            if (gain != 1).any():
                scales[layer.name] = (layer.weight_scale * gain).astype(np.float32)
            rounded.change(output, _Affine(gain, shift, axis))
            before.append(seen.sqnr_db(np.ones_like(gain), np.zeros_like(shift)))
            after.append(seen.sqnr_db(gain, shift))
        corrected = with_scales(with_layers(built.model, biases), scales)
        return StageResult(
            corrected,
            {
                "correction_images": len(few),
                "layers_corrected": len(biases),
                "layer_sqnr_before_db": round(float(np.mean(before)), 2) if before else None,
                "layer_sqnr_after_db": round(float(np.mean(after)), 2) if after else None,
            },
        )


def _largest_output(model: Model, names: Collection[str]) -> int:
    """float32 bytes of the largest output among these nodes, of one sample, as far as shapes are known."""
    shapes = [list(node.outputs[0].shape or [])[1:] for node in model.graph.graph if node.name in names]
    return 4 * max((math.prod(dim for dim in shape if isinstance(dim, int)) for shape in shapes), default=1)


def _look(layer: IntegerLayer, true: Segments, rounded: Segments) -> tuple[_Moments, int]:
    """Move both models on behind the layer; what its output is in them, and the axis of its channels."""
    wanted, found = (graph.node(layer.name).output[0] for graph in (true, rounded))
    seen, axis = None, 1
    for f, q in zip(true.step(layer.name, [wanted]), rounded.step(layer.name, [found], keep=found), strict=True):
        if seen is None:
            axis = 1 if layer.operator in ("Conv", "ConvTranspose") else f[wanted].ndim - 1
            seen = _Moments(f[wanted].shape[axis])
        seen.add(f[wanted], q[found], axis)
    assert seen is not None
    return seen, axis


class _Affine:
    """gain * x + shift, along an axis, in place."""

    def __init__(self, gain: np.ndarray, shift: np.ndarray, axis: int) -> None:
        self.gain, self.shift, self.axis = gain, shift, axis

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        shape = [-1 if axis == self.axis else 1 for axis in range(batch.ndim)]
        batch *= self.gain.astype(np.float32).reshape(shape)
        batch += self.shift.astype(np.float32).reshape(shape)
        return batch


class _Moments:
    """Sums over samples and positions, each float64 [channels]: of the true output f, and of what is missing, f - q."""

    def __init__(self, channels: int) -> None:
        self.count = 0
        self.true, self.missing, self.found_squared, self.missing_squared, self.product, self.true_squared = np.zeros(
            (6, channels)
        )

    def add(self, true: np.ndarray, found: np.ndarray, axis: int) -> None:
        """Count one batch."""
        if true.shape != found.shape:  # detections vary in number, and so does what is computed of them
            return
        f, q = (np.moveaxis(x, axis, 0).reshape(x.shape[axis], -1) for x in (true, found))
        missing = f - q
        self.count += f.shape[1]
        self.true += f.sum(axis=1, dtype=np.float64)
        self.missing += missing.sum(axis=1, dtype=np.float64)
        self.found_squared += np.einsum("ij,ij->i", q, q)
        self.missing_squared += np.einsum("ij,ij->i", missing, missing)
        self.product += np.einsum("ij,ij->i", q, missing)
        self.true_squared += np.einsum("ij,ij->i", f, f)

    def sqnr_db(self, gain: np.ndarray, shift: np.ndarray) -> float:
        """Of the whole output, corrected to gain * q + shift."""
        extra = gain - 1
        found = self.true - self.missing
        noise = (
            self.missing_squared
            + extra**2 * self.found_squared
            + self.count * shift**2
            - 2 * extra * self.product
            - 2 * shift * self.missing
            + 2 * extra * shift * found
        ).sum()
        return float(10 * np.log10(max(self.true_squared.sum(), 1e-30) / max(noise, 1e-30)))


def _fit(seen: _Moments, layer: IntegerLayer, images: int, *, scales: bool) -> tuple[np.ndarray, np.ndarray]:
    """Gain and shift for each channel that make gain * q + shift closest to f, shrunk towards 1 and 0 by their
    standard errors. Positions of one image are not independent, so each image counts as one sample."""
    n = seen.count or 1
    mean_missing, mean_found = seen.missing / n, (seen.true - seen.missing) / n
    noise = np.maximum(seen.missing_squared / n - mean_missing**2, 0)
    extra = np.zeros_like(mean_found)
    if scales and layer.axis is not None and images > 2:
        spread = np.maximum(seen.found_squared / n - mean_found**2, 1e-30)
        common = seen.product / n - mean_found * mean_missing
        slope = common / spread
        error = np.maximum(noise - slope * common, 0) / spread / (images - 2)
        extra = np.clip(slope * _trust(slope, error), 1 / WIDEST - 1, WIDEST - 1)
    shift = mean_missing - extra * mean_found
    return 1 + extra, shift * _trust(shift, noise / max(images - 1, 1))


def _trust(value: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """How much of an estimate to believe: 1 where it is far beyond its standard error, 0 within it."""
    square = value**2
    kept = np.maximum(square - variance, 0)
    return np.asarray(np.divide(kept, square, out=np.zeros_like(square), where=square > 0))


def _round(
    layer: IntegerLayer, gain: np.ndarray, shift: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Gain and shift as the layer can have them, and its new bias; without a bias there is no shift."""
    if layer.bias is None:
        return gain, np.zeros_like(shift), None
    if layer.bias_scale is None:
        return gain, shift, (layer.bias * gain + shift).astype(layer.bias.dtype)
    step = layer.bias_scale.astype(np.float64)
    wanted = np.rint(layer.bias + shift / (step * gain))  # the bias's scale is multiplied by the gain too
    fits = np.abs(wanted) <= 2 * BIAS_LIMIT
    integers = np.where(fits, wanted, layer.bias)
    return gain, (integers - layer.bias) * step * gain, integers.astype(layer.bias.dtype)
