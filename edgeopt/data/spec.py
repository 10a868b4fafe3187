"""What a recipe says about its images."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field

from edgeopt.model import Preprocess
from edgeopt.spec import Spec

__all__ = ["DataSpec"]


class DataSpec(Spec):
    """Where the images are and how they are split. A plain string in a recipe is the `source`."""

    source: str = Field(
        min_length=1,
        description="digits, a folder of images (one folder per class, flat, or with boxes in COCO's format), x.npz, "
        "torchvision:CIFAR10 and its like, or data.py:factory",
    )
    preprocess: Preprocess | None = Field(
        None, description="how pixels become the model's input; none: what the model itself says"
    )
    test_fraction: float = Field(
        0.2, gt=0, lt=1, description="share kept for testing where the source has no test split of its own"
    )
    calibration: int = Field(
        256,
        ge=1,
        description="images for calibration, taken from the training images, balanced over the classes",
    )
    limit: int | None = Field(
        None, ge=2, description="at most this many training and this many test images, balanced; none: all"
    )

    takes_text: ClassVar[bool] = True

    @classmethod
    def parse_text(cls, text: str) -> dict[str, Any]:
        return {"source": text}
