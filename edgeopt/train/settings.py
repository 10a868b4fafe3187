"""Fit: how a network is trained. One set of settings for training, distillation, fine-tuning and QAT."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from edgeopt.spec import Spec
from edgeopt.train.optimizers import Optimizer, Sgd
from edgeopt.train.schedules import OneCycle, Schedule

__all__ = ["Augment", "FineTune", "Fit", "Precision"]

Precision = Literal["auto", "fp32", "bf16", "fp16"]


class Augment(Spec):
    """Random changes to training images, drawn anew for each image of each batch. All off by default."""

    flip: bool = Field(False, description="mirror left to right, half of the images")
    crop_pad: int = Field(0, ge=0, description="pad by so many black pixels, crop back at a random place")
    shift: float = Field(0.0, ge=0, description="move by up to so many pixels, fractions too (bilinear)")
    rotate: float = Field(0.0, ge=0, le=180, description="turn by up to so many degrees either way")
    zoom: float = Field(0.0, ge=0, lt=1, description="scale by up to this fraction either way")
    erase: float = Field(0.0, ge=0, le=1, description="share of images that lose a random rectangle")

    @property
    def warps(self) -> bool:
        """Whether images are resampled."""
        return self.shift > 0 or self.rotate > 0 or self.zoom > 0

    @property
    def active(self) -> bool:
        """Whether anything is on."""
        return self != Augment()


class Fit(Spec):
    """Settings of one training run."""

    epochs: int = Field(30, ge=1, description="passes over the training images")
    batch_size: int = Field(128, ge=1, description="images a step, over all devices together")
    optimizer: Optimizer = Field(Sgd(), description="sgd or adamw")
    lr: float | None = Field(None, gt=0, description="peak learning rate; none: 0.1 for sgd, 0.002 for adamw")
    weight_decay: float | None = Field(
        None, ge=0, description="of matrices and kernels; none: 5e-4 for sgd, 0.05 for adamw"
    )
    schedule: Schedule = Field(OneCycle(), description="course of the learning rate: one_cycle or cosine")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="share of the label given to all classes")
    augment: Augment = Field(Augment(), description="random changes to training images")
    clip_norm: float | None = Field(None, gt=0, description="largest norm of all gradients together")
    ema: float | None = Field(
        None, gt=0, lt=1, description="return the moving average of the weights with this decay a step"
    )
    precision: Precision = Field("auto", description="of the arithmetic; auto: bf16 where it is faster")
    accelerator: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="where it runs; auto: on a GPU if there is one"
    )
    devices: int = Field(1, ge=1, description="GPUs, or processes on CPU")

    @property
    def peak_lr(self) -> float:
        """The peak learning rate: `lr`, or what suits the optimizer."""
        return self.optimizer.default_lr if self.lr is None else self.lr

    @property
    def decay(self) -> float:
        """The weight decay: `weight_decay`, or what suits the optimizer."""
        return self.optimizer.default_weight_decay if self.weight_decay is None else self.weight_decay


class FineTune(Fit):
    """`Fit` with what suits a network that is trained already: fewer epochs, a lower peak learning rate."""

    epochs: int = Field(10, ge=1, description="passes over the training images")
    lr: float | None = Field(0.02, gt=0, description="peak learning rate; none: 0.1 for sgd, 0.002 for adamw")
