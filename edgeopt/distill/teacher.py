"""A teacher as training wants it: fed the student's batch, answering in logits, in the precision that pays."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from edgeopt.model import Model, Preprocess
from edgeopt.model.to_torch import to_torch
from edgeopt.train.losses import log_probabilities
from edgeopt.train.objectives import all_outputs
from edgeopt.train.precision import choose_precision, count_arithmetic
from edgeopt.train.settings import Precision
from edgeopt.train.stage import ends_in_softmax

__all__ = ["Teacher", "Teachers"]

HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Teacher(nn.Module):
    """[n, ...] as the student takes it -> all of the teacher's outputs, the first one as logits.

    A teacher with a normalisation of its own (another mean, std or scale) gets its input translated: both are
    affine in the pixel. One that ends in Softmax answers with log-probabilities, which are logits too. `precision`
    auto is decided by the teacher's own size: a large one pays in bf16 beside a small student that does not.
    """

    gain: Tensor
    offset: Tensor

    def __init__(self, model: Model, given: Preprocess | None, precision: Precision = "auto") -> None:
        super().__init__()
        self.network: nn.Module = to_torch(model)
        self.probabilities = ends_in_softmax(model)
        self.precision = precision
        self.chosen: dict[str, Precision] = {}
        self.batch = model.fixed_batch or 1
        own = model.meta.preprocess
        self.translates = own is not None and given is not None and _affine(own) != _affine(given)
        self.nhwc_in = given is not None and given.layout == "NHWC"
        self.nhwc_out = own.layout == "NHWC" if own is not None else self.nhwc_in
        if own is not None and given is not None:
            gain, offset = _translation(given, own)
            self.register_buffer("gain", gain, persistent=False)
            self.register_buffer("offset", offset, persistent=False)
        self.eval().requires_grad_(False)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """The outputs for one batch, the first as logits."""
        if self.translates or self.nhwc_in != self.nhwc_out:
            x = self._translate(x)
        half = HALVES.get(self._precision_for(x))
        with torch.autocast(x.device.type, dtype=half, enabled=half is not None):
            first, *others = all_outputs(self.network(x))
        return (log_probabilities(first) if self.probabilities else first, *others)

    def _precision_for(self, x: Tensor) -> Precision:
        """What `x` is computed in, by the device that it is on."""
        kind = x.device.type
        if kind not in self.chosen:
            with torch.inference_mode(False):  # which hides convolutions from the count
                arithmetic = count_arithmetic(self.network, x[: self.batch].clone())
            self.chosen[kind] = choose_precision(self.precision, x.device, arithmetic)
        return self.chosen[kind]

    def _translate(self, x: Tensor) -> Tensor:
        x = x.permute(0, 3, 1, 2) if self.nhwc_in else x
        x = x * self.gain + self.offset if self.translates else x
        return x.permute(0, 2, 3, 1) if self.nhwc_out else x


class Teachers(nn.Module):
    """The mean of several teachers' answers.

    Logits are averaged, which is the geometric mean of the probabilities at any temperature: Hinton et al. (arXiv
    1503.02531, section 1) take the arithmetic or the geometric mean of an ensemble; the latter leaves logits, which
    every loss softens as it likes.
    """

    def __init__(self, teachers: Sequence[Teacher]) -> None:
        super().__init__()
        self.teachers = nn.ModuleList(teachers)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Each output's mean."""
        answers = [teacher(x) for teacher in self.teachers]
        return tuple(torch.stack([part.float() for part in parts]).mean(0) for parts in zip(*answers, strict=True))


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
