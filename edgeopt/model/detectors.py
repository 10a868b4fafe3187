"""torchvision's single-shot detectors (SSD, SSDLite) as plain networks: what comes before anchors and boxes."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchvision.models.detection.ssd import SSD

from edgeopt.model.anchors import Anchors
from edgeopt.model.model import Meta, Preprocess

__all__ = ["Heads", "describe"]


class Heads(nn.Module):
    """Backbone and heads of a detector: images in, raw heads out, one tensor."""

    def __init__(self, detector: SSD) -> None:
        super().__init__()
        self.backbone, self.head = detector.backbone, detector.head

    def forward(self, x: Tensor) -> Tensor:
        """[n, 3, h, w] -> [n, anchors, 1 + classes + 4], "nothing" first."""
        found = self.head(list(self.backbone(x).values()))
        return torch.cat([found["cls_logits"], found["bbox_regression"]], dim=-1)


def describe(detector: SSD, side: int | None, categories: tuple[str, ...]) -> tuple[Heads, Meta]:
    """The network, and how its input is made and its output read.

    `side`: of the input, pixels; None: the detector's own. `categories`: torchvision's names, "nothing"
    first, unused ones "N/A"; empty: unknown.
    """
    transform, generator = detector.transform, detector.anchor_generator
    wide, tall = transform.fixed_size if side is None else (side, side)
    with torch.no_grad():
        maps = detector.backbone.eval()(torch.zeros(1, 3, tall, wide)).values()
    anchors = Anchors(
        size=(tall, wide),
        grids=tuple((features.shape[2], features.shape[3]) for features in maps),
        scales=tuple(generator.scales),
        aspect_ratios=tuple(tuple(map(float, ratios)) for ratios in generator.aspect_ratios),
        steps=None if generator.steps is None else tuple(generator.steps),
        weights=detector.box_coder.weights,
        min_score=detector.score_thresh,
        overlap=detector.nms_thresh,
        candidates=detector.topk_candidates,
        most=detector.detections_per_img,
    )
    preprocess = Preprocess(size=(tall, wide), mean=tuple(transform.image_mean), std=tuple(transform.image_std))
    labels = tuple(f"unused {at}" if name == "N/A" else name for at, name in enumerate(categories))[1:]
    return Heads(detector), Meta(task="detection", labels=labels, preprocess=preprocess, anchors=anchors)
