"""Fit: how a network is trained. One set of settings for training, distillation, fine-tuning and QAT."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from edgeopt.spec import Spec
from edgeopt.train.optimizers import Optimizer, Sgd
from edgeopt.train.schedules import OneCycle, Schedule

__all__ = ["Augment", "Compile", "FineTune", "Fit", "Precision", "RandAugment"]

Precision = Literal["auto", "fp32", "bf16", "fp16"]
Compile = bool | Literal["auto"]


class RandAugment(Spec):
    """Some of torchvision's 14 changes of colour and geometry, all of one strength (Cubuk et al., arXiv 1909.13719)."""

    ops: int = Field(2, ge=1, le=14, description="changes to an image, one after the other")
    magnitude: int = Field(9, ge=0, le=30, description="their strength")


class Augment(Spec):
    """Random changes to training images, drawn anew in each batch. All off by default."""

    flip: bool = Field(False, description="mirror left to right, half of the images")
    crop_pad: int = Field(0, ge=0, description="pad by so many black pixels, crop back at a random place")
    shift: float = Field(0.0, ge=0, description="move by up to so many pixels, fractions too (bilinear)")
    rotate: float = Field(0.0, ge=0, le=180, description="turn by up to so many degrees either way")
    zoom: float = Field(0.0, ge=0, lt=1, description="scale by up to this fraction either way")
    erase: float = Field(0.0, ge=0, le=1, description="share of images that lose a random rectangle")
    randaugment: RandAugment | None = Field(
        None, description="changes of colour and geometry, drawn for a sixteenth of a batch at a time"
    )
    mixup: float = Field(
        0.0, ge=0, description="blend pairs of images and their labels, shares from Beta(this, this); 0: off"
    )
    cutmix: float = Field(
        0.0, ge=0, description="paste a rectangle of another image, the label by its area, from Beta(this, this)"
    )

    @property
    def warps(self) -> bool:
        """Whether images are resampled."""
        return self.shift > 0 or self.rotate > 0 or self.zoom > 0

    @property
    def moves(self) -> bool:
        """Whether things are afterwards at another place in the image."""
        return self.flip or self.crop_pad > 0 or self.warps or self.randaugment is not None

    @property
    def mixes(self) -> bool:
        """Whether images are mixed with others of their batch, and labels with them."""
        return self.mixup > 0 or self.cutmix > 0

    @property
    def active(self) -> bool:
        """Whether anything is on."""
        return self != Augment()


class Fit(Spec):
    """Settings of one training run."""

    epochs: int = Field(30, ge=1, description="passes over the training images")
    batch_size: int = Field(128, ge=1, description="images a step, over all devices together")
    accumulate: int = Field(
        1, ge=1, description="parts that a batch is computed in, one after the other: the same step in less memory"
    )
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
    compile: Compile = Field("auto", description="torch.compile; auto: in long runs on a GPU, never on a CPU")
    validation: float = Field(
        0.0, ge=0, le=0.5, description="share of the training images that is held out to watch the training"
    )
    patience: int | None = Field(
        None,
        ge=1,
        description="stop after so many epochs without a better result on the held-out images",
        json_schema_extra={"beside": {"validation": 0.1}},
    )
    keep: Literal["last", "best"] = Field(
        "last", description="weights to return: of the last epoch, or of the best on the held-out images"
    )
    tensorboard: bool = Field(False, description="write TensorBoard event files beside the stage")
    accelerator: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="where it runs; auto: on a GPU if there is one"
    )
    devices: int = Field(1, ge=1, description="GPUs of each machine, or processes on its CPU")
    nodes: int = Field(1, ge=1, description="machines; torchrun starts the command on each of several")
    strategy: Literal["ddp", "fsdp"] = Field(
        "ddp",
        description="ddp: every device holds all of the network; fsdp: a part of weights, gradients and optimizer",
    )
    sync_batchnorm: bool = Field(
        True, description="statistics of BatchNormalization over all devices together, as one device would have them"
    )

    @property
    def processes(self) -> int:
        """Over all machines."""
        return self.devices * self.nodes

    @model_validator(mode="after")
    def _images_to_watch(self) -> Fit:
        if not self.validation and (self.patience is not None or self.keep == "best"):
            what = "keep: best" if self.patience is None else "patience"
            raise ValueError(f"{what} needs images that are held out: add `validation: 0.1`")
        return self

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
