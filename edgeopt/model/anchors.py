"""How a single-shot detector's output becomes boxes: what its graph leaves out, as metadata.

The graph ends in the raw heads, one tensor [n, anchors, 1 + classes + 4]: for each anchor the logits of "nothing" and
of the classes, then the four numbers by which its box differs from the anchor. It is a plain graph of convolutions, so
that training, pruning, quantization and export treat it as any other. Anchors, decoding and non-maximum suppression are
code outside of it (`edgeopt.model.boxes`), described here.
"""

from __future__ import annotations

from pydantic import Field, model_validator

from edgeopt.spec import Spec

__all__ = ["BOX_VALUES", "Anchors"]

BOX_VALUES = 4
"""Numbers by which a box differs from its anchor: of the centre (x, y), relative to the anchor's size, and the
logarithms of the sizes (width, height)."""


class Anchors(Spec):
    """The default boxes of SSD (Liu et al., arXiv 1512.02325, section 2.2), as torchvision's DefaultBoxGenerator makes
    them, and how boxes are read off the outputs."""

    size: tuple[int, int] = Field(description="height, width of the model's input, pixels")
    grids: tuple[tuple[int, int], ...] = Field(description="height, width of each feature map, finest first")
    scales: tuple[float, ...] = Field(description="anchor size of each map, fraction of the input, and one more")
    aspect_ratios: tuple[tuple[float, ...], ...] = Field(
        description="of each map, besides 1: r gives the anchors r : 1 and 1 : r"
    )
    steps: tuple[int, ...] | None = Field(None, description="pixels between anchors of each map; none: size / grid")
    weights: tuple[float, float, float, float] = Field(
        (10.0, 10.0, 5.0, 5.0), description="what the four box values are multiplied by, the inverse of SSD's variances"
    )
    min_score: float = Field(0.01, ge=0, lt=1, description="boxes below this probability are left out")
    overlap: float = Field(0.45, gt=0, le=1, description="of two boxes of a class with a higher IoU the better stays")
    candidates: int = Field(400, ge=1, description="boxes of each class that are looked at, the best ones")
    most: int = Field(200, ge=1, description="boxes of an image, all classes together")

    @model_validator(mode="after")
    def _one_of_each(self) -> Anchors:
        maps = len(self.grids)
        if not maps or len(self.aspect_ratios) != maps or len(self.scales) != maps + 1:
            raise ValueError(
                f"{maps} grids want as many lists of aspect_ratios and one more scale; "
                f"there are {len(self.aspect_ratios)} and {len(self.scales)}"
            )
        if self.steps is not None and len(self.steps) != maps:
            raise ValueError(f"{maps} grids want as many steps, not {len(self.steps)}")
        return self

    @property
    def per_place(self) -> tuple[int, ...]:
        """Anchors at each place of each map."""
        return tuple(2 + 2 * len(ratios) for ratios in self.aspect_ratios)

    @property
    def count(self) -> int:
        """Anchors of an image."""
        return sum(h * w * each for (h, w), each in zip(self.grids, self.per_place, strict=True))

    def classes(self, shape: tuple[int | str, ...]) -> int | None:
        """Classes of an output of this shape (batch first), or None when it is not of these anchors."""
        if len(shape) != 3 or shape[1] != self.count or not isinstance(shape[2], int):
            return None
        classes = shape[2] - 1 - BOX_VALUES
        return classes if classes > 0 else None
