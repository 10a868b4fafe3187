"""From a detector's raw outputs to boxes, and back: torchvision's anchors and coding.

Boxes are x1, y1, x2, y2 in pixels of the model's input. An output is [n, anchors, 1 + classes + 4], see
`edgeopt.model.anchors`.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import batched_nms, clip_boxes_to_image

from edgeopt.model.anchors import BOX_VALUES, Anchors

__all__ = ["coder", "decode", "default_boxes", "split_heads"]


def default_boxes(anchors: Anchors) -> Tensor:
    """float32 [anchors, 4], map by map, row by row."""
    generator = DefaultBoxGenerator(
        [list(ratios) for ratios in anchors.aspect_ratios],
        scales=list(anchors.scales),
        steps=None if anchors.steps is None else list(anchors.steps),
    )
    image = ImageList(torch.empty(1, 0, *anchors.size), [anchors.size])
    boxes: Tensor = generator(image, [torch.empty(1, 0, *grid) for grid in anchors.grids])[0]
    return boxes


def coder(anchors: Anchors) -> BoxCoder:
    """What turns boxes into the four values beside their anchors, and back."""
    return BoxCoder(weights=anchors.weights)


def split_heads(outputs: Tensor) -> tuple[Tensor, Tensor]:
    """Logits [..., 1 + classes], "nothing" first, and box values [..., 4] of an output."""
    return outputs[..., :-BOX_VALUES], outputs[..., -BOX_VALUES:]


def decode(outputs: Tensor, anchors: Anchors) -> list[dict[str, Tensor]]:
    """For each image of float outputs its boxes [k, 4], scores [k] and labels int64 [k] (classes from 0), best first.

    As SSD.postprocess_detections of torchvision: softmax, the best `candidates` of each class over `min_score`,
    non-maximum suppression within each class, the best `most`.
    """
    logits, values = split_heads(outputs.float())
    scores = logits.softmax(-1)[..., 1:]
    reference, box_coder = default_boxes(anchors).to(outputs.device), coder(anchors)
    found = []
    for own_scores, own_values in zip(scores, values, strict=True):
        boxes = clip_boxes_to_image(box_coder.decode_single(own_values, reference), anchors.size)
        best, place = own_scores.topk(min(anchors.candidates, anchors.count), dim=0)
        wanted = best > anchors.min_score
        score, place = best[wanted], place[wanted]
        label = wanted.nonzero()[:, 1]
        kept = batched_nms(boxes[place], score, label, anchors.overlap)[: anchors.most]
        found.append({"boxes": boxes[place][kept], "scores": score[kept], "labels": label[kept]})
    return found
