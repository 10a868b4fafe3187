"""What a detector learns: the boxes of the images, and where a teacher finds something in them.

Outputs are [n, anchors, 1 + classes + 4], boxes [n, most, 6]: see `edgeopt.model.anchors` and `Split.boxes`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import box_iou

from edgeopt.data.data import CLASS, CROWD, PADDING
from edgeopt.model.anchors import Anchors
from edgeopt.model.boxes import coder, default_boxes, split_heads
from edgeopt.train.objectives import Outputs, ask, first_output

__all__ = ["MultiBox", "WithBoxTeacher", "imitation", "match", "multibox"]

OVERLAP = 0.5
"""An anchor with this IoU learns the box; so does the best anchor of each box, whatever its IoU."""
NEGATIVES = 3
"""Anchors on nothing that learn, for each that learns a box: those with the largest loss."""


class MultiBox(nn.Module):
    """SSD's loss (arXiv 1512.02325, section 2.2)."""

    default: Tensor

    def __init__(self, anchors: Anchors) -> None:
        super().__init__()
        self.coder = coder(anchors)
        self.register_buffer("default", default_boxes(anchors), persistent=False)

    def forward(self, outputs: Outputs, x: Tensor, boxes: Tensor | None) -> Tensor:
        """The batch's loss. `boxes` must be there."""
        assert boxes is not None, "boxes are learned from boxes; stages check this before training"
        matched = match(boxes, self.default)
        taken = matched >= 0
        own = boxes.gather(1, matched.clamp_min(0)[..., None].expand(-1, -1, boxes.shape[2]))
        classes = torch.where(taken, own[..., CLASS].long() + 1, 0)
        anchors = self.default.expand(len(boxes), -1, -1)[taken]
        values = self.coder.encode_single(own[..., :CLASS][taken], anchors)
        return multibox(first_output(outputs).float(), taken, classes, values)


class WithBoxTeacher(nn.Module):
    """alpha * the imitation of a teacher + (1 - alpha) * `labels`: `WithTeacher` for detectors.

    Without labels, in the data or here, the imitation is all.
    """

    def __init__(self, teacher: nn.Module, temperature: float, alpha: float, labels: nn.Module | None) -> None:
        super().__init__()
        self.teacher = teacher.eval().requires_grad_(False)
        self.labels = labels
        self.temperature, self.alpha = temperature, alpha

    def forward(self, outputs: Outputs, x: Tensor, boxes: Tensor | None) -> Tensor:
        """The batch's loss."""
        soft = imitation(first_output(outputs).float(), ask(self.teacher, x)[0], self.temperature)
        if boxes is None or self.labels is None:
            return soft
        hard: Tensor = self.labels(outputs, x, boxes)
        return self.alpha * soft + (1 - self.alpha) * hard


def match(boxes: Tensor, anchors: Tensor) -> Tensor:
    """int64 [n, anchors]: which of the image's `boxes` [n, most, 6] each of `anchors` [anchors, 4] learns, -1 for none.

    torchvision's SSDMatcher, all images at once: the box with the largest IoU if that is OVERLAP or more, and for each
    box its best anchor. Crowds are not learned.
    """
    n, most, _ = boxes.shape
    real = (boxes[..., CLASS] != PADDING) & (boxes[..., CROWD] == 0)
    iou: Tensor = box_iou(boxes[..., :CLASS].flatten(0, 1), anchors).view(n, most, -1)
    iou = iou.masked_fill(~real[..., None], -1.0)
    best, matched = iou.max(1)
    matched = matched.masked_fill(best < OVERLAP, -1)
    favourite = iou.argmax(2)
    for at in range(most):  # one after another: of two boxes with one favourite the later has it, on any device
        rows = real[:, at].nonzero()[:, 0]
        matched[rows, favourite[rows, at]] = at
    return matched


def multibox(outputs: Tensor, taken: Tensor, classes: Tensor, values: Tensor) -> Tensor:
    """Smooth L1 of the box values and cross-entropy of the classes, summed, per anchor that learns a box.

    `taken` bool [n, anchors]; `classes` int64 [n, anchors], 0 for nothing; `values` [taken, 4]. Of the other anchors of
    each image the NEGATIVES times as many with the largest loss count: hard negative mining, as SSD.compute_loss of
    torchvision does it.
    """
    logits, own = split_heads(outputs)
    boxes = F.smooth_l1_loss(own[taken], values, reduction="sum")
    each = F.cross_entropy(logits.flatten(0, 1), classes.flatten(), reduction="none").view(classes.shape)
    hardness = each.detach().masked_fill(taken, -torch.inf)
    rank = hardness.argsort(1, descending=True).argsort(1)
    mined = rank < NEGATIVES * taken.sum(1, keepdim=True)
    return (boxes + each[taken].sum() + each[mined].sum()) / taken.sum().clamp_min(1)


def imitation(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """How far the student's raw outputs are from the teacher's, where either sees something.

    Nearly all anchors see nothing, and a mean over them would be of nothing. So the divergence
    T^2 KL(softmax(teacher / T) || softmax(student / T)) of each anchor's classes counts by the probability of an
    object, the larger of the teacher's and the student's (what the student invents has to go), and smooth L1 of its
    box values by the teacher's alone: a box around nothing means nothing. Both per object that the teacher sees. Soft
    targets and the teacher's boxes are what Chen et al. distill two-stage detectors by ("Learning Efficient Object
    Detection Models with Knowledge Distillation", NeurIPS 2017); the weights take the place of their sampled proposals.
    """
    (logits, values), (wanted, boxes) = split_heads(student), split_heads(teacher)
    seen = 1 - wanted.softmax(-1)[..., 0]
    invented = 1 - logits.detach().softmax(-1)[..., 0]
    soft, hard = (F.log_softmax(each / temperature, -1) for each in (logits, wanted))
    divergence = F.kl_div(soft, hard, reduction="none", log_target=True).sum(-1) * temperature**2
    apart = F.smooth_l1_loss(values, boxes, reduction="none").sum(-1)
    return (torch.maximum(seen, invented) * divergence + seen * apart).sum() / seen.sum().clamp_min(1)
