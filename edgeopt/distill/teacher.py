"""A teacher as training wants it: fed the student's batch, answering in logits."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from edgeopt.model import Model, Preprocess
from edgeopt.model.to_torch import to_torch
from edgeopt.train.losses import log_probabilities
from edgeopt.train.objectives import first_output

__all__ = ["Teacher"]


class Teacher(nn.Module):
    """[n, ...] as the student takes it -> the teacher's logits [n, classes].

    A teacher with a normalisation of its own (another mean, std or scale) gets its input translated: both are
    affine in the pixel. One that ends in Softmax answers with log-probabilities, which are logits too.
    """

    gain: Tensor
    offset: Tensor

    def __init__(self, model: Model, given: Preprocess | None, *, probabilities: bool) -> None:
        super().__init__()
        self.network = to_torch(model)
        self.probabilities = probabilities
        own = model.meta.preprocess
        self.translates = own is not None and given is not None and _affine(own) != _affine(given)
        self.nhwc_in = given is not None and given.layout == "NHWC"
        self.nhwc_out = own.layout == "NHWC" if own is not None else self.nhwc_in
        if own is not None and given is not None:
            gain, offset = _translation(given, own)
            self.register_buffer("gain", gain, persistent=False)
            self.register_buffer("offset", offset, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """The logits for one batch."""
        if self.translates or self.nhwc_in != self.nhwc_out:
            x = self._translate(x)
        outputs = first_output(self.network(x))
        return log_probabilities(outputs) if self.probabilities else outputs

    def _translate(self, x: Tensor) -> Tensor:
        x = x.permute(0, 3, 1, 2) if self.nhwc_in else x
        x = x * self.gain + self.offset if self.translates else x
        return x.permute(0, 2, 3, 1) if self.nhwc_out else x


def _affine(preprocess: Preprocess) -> tuple[list[float], list[float]]:
    """Per channel gain and offset of the pixel."""
    mean, std = np.asarray(preprocess.mean, np.float64), np.asarray(preprocess.std, np.float64)
    shape = (preprocess.channels,)
    gain = np.broadcast_to(preprocess.scale / std, shape)
    return gain.tolist(), np.broadcast_to(-mean / std, shape).tolist()


def _translation(given: Preprocess, own: Preprocess) -> tuple[Tensor, Tensor]:
    """float32 [1, C, 1, 1] each: own(pixel) = given(pixel) * gain + offset."""
    (gain_given, offset_given), (gain_own, offset_own) = _affine(given), _affine(own)
    gain = np.asarray(gain_own) / np.asarray(gain_given)
    offset = np.asarray(offset_own) - np.asarray(offset_given) * gain
    as_tensor = [torch.from_numpy(values.astype(np.float32)).view(1, -1, 1, 1) for values in (gain, offset)]
    return as_tensor[0], as_tensor[1]
