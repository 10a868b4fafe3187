"""SSD's loss beside torchvision's, and the teacher's side of it."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F
from torchvision.models.detection._utils import SSDMatcher
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.ssd import SSD
from torchvision.ops import box_iou

from edgeopt.model.anchors import Anchors
from edgeopt.model.boxes import decode, default_boxes
from edgeopt.train.boxes import MultiBox, imitation, match

ANCHORS = Anchors(size=(64, 48), grids=((8, 6), (4, 3)), scales=(0.2, 0.5, 0.9), aspect_ratios=((2.0,), (2.0, 3.0)))
CLASSES = 3


class Nothing(torch.nn.Module):
    out_channels = (1, 1)


@pytest.fixture(scope="module")
def theirs() -> SSD:
    """torchvision's detector of the same anchors; only its formulas are used."""
    generator = DefaultBoxGenerator([[2], [2, 3]], scales=[0.2, 0.5, 0.9])
    return SSD(Nothing(), generator, (48, 64), CLASSES + 1)


@pytest.fixture
def boxes() -> torch.Tensor:
    """float32 [3, 4, 6]: four boxes, one and a crowd, none."""
    rng = torch.Generator().manual_seed(0)
    found = torch.zeros(3, 4, 6)
    found[..., 4] = -1
    corner, size = torch.rand(3, 4, 2, generator=rng) * 30, 5 + torch.rand(3, 4, 2, generator=rng) * 15
    found[..., :2], found[..., 2:4] = corner, corner + size
    found[0, :, 4] = torch.tensor([0.0, 1, 2, 2])
    found[1, :2, 4] = 1
    found[1, 1, 5] = 1
    return found


def real(own: torch.Tensor) -> torch.Tensor:
    return own[(own[:, 4] >= 0) & (own[:, 5] == 0)]


def test_anchors_are_matched_as_torchvision_matches_them(boxes):
    anchors = default_boxes(ANCHORS)
    found = match(boxes, anchors)
    assert len(anchors) == ANCHORS.count
    for own, matched in zip(boxes[:2], found[:2], strict=True):
        expected = SSDMatcher(0.5)(box_iou(real(own)[:, :4], anchors))
        assert torch.equal(matched, expected)
    assert (found[0] >= 0).sum() >= 4
    assert (found[2] == -1).all()


def test_the_loss_is_torchvisions(theirs, boxes):
    anchors = default_boxes(ANCHORS)
    outputs = torch.randn(3, ANCHORS.count, 1 + CLASSES + 4, generator=torch.Generator().manual_seed(1))
    targets = [{"boxes": real(own)[:, :4], "labels": real(own)[:, 4].long() + 1} for own in boxes]
    heads = {"cls_logits": outputs[..., :-4], "bbox_regression": outputs[..., -4:]}
    expected = theirs.compute_loss(targets, heads, [anchors] * 3, list(match(boxes, anchors)))
    found = MultiBox(ANCHORS)(outputs, torch.empty(0), boxes)
    torch.testing.assert_close(found, sum(expected.values()))


def test_images_without_boxes_give_no_nan(boxes):
    loss = MultiBox(ANCHORS)(torch.randn(1, ANCHORS.count, 8), torch.empty(0), boxes[2:])
    assert loss == 0


def test_boxes_are_decoded_as_torchvision_decodes_them(theirs):
    outputs = 3 * torch.randn(2, ANCHORS.count, 1 + CLASSES + 4, generator=torch.Generator().manual_seed(2))
    heads = {"cls_logits": outputs[..., :-4], "bbox_regression": outputs[..., -4:]}
    expected = theirs.postprocess_detections(heads, [default_boxes(ANCHORS)] * 2, [(64, 48)] * 2)
    for own, other in zip(decode(outputs, ANCHORS), expected, strict=True):
        torch.testing.assert_close(own["boxes"], other["boxes"])
        torch.testing.assert_close(own["scores"], other["scores"])
        assert torch.equal(own["labels"] + 1, other["labels"])


def test_encoding_and_decoding_gives_the_box_back(boxes):
    """A network that answers what MultiBox asks for finds the boxes."""
    loss = MultiBox(ANCHORS)
    outputs = torch.zeros(3, ANCHORS.count, 1 + CLASSES + 4, requires_grad=True)
    optimizer = torch.optim.Adam([outputs], lr=0.3)
    for _ in range(150):
        optimizer.zero_grad()
        loss(outputs, torch.empty(0), boxes).backward()
        optimizer.step()
    for own, found in zip(boxes, decode(outputs.detach(), ANCHORS), strict=True):
        sure = found["scores"] > 0.6
        wanted = real(own)
        assert sorted(found["labels"][sure].tolist()) == sorted(wanted[:, 4].long().tolist())
        if len(wanted):
            assert box_iou(wanted[:, :4], found["boxes"][sure]).max(1).values.min() > 0.9


def test_imitation_is_the_sum_written_out():
    rng = torch.Generator().manual_seed(3)
    student, teacher = torch.randn(2, 2, 5, 1 + CLASSES + 4, generator=rng)
    expected, seen_in_all = 0.0, 0.0
    for ours, theirs in zip(student.flatten(0, 1), teacher.flatten(0, 1), strict=True):
        p, q = ours[:4].softmax(0), theirs[:4].softmax(0)
        soft, wanted = (ours[:4] / 2).softmax(0), (theirs[:4] / 2).softmax(0)
        divergence = 4 * (wanted * (wanted / soft).log()).sum()
        apart = F.smooth_l1_loss(ours[4:], theirs[4:], reduction="sum")
        expected += max(1 - p[0], 1 - q[0]) * divergence + (1 - q[0]) * apart
        seen_in_all += 1 - q[0]
    torch.testing.assert_close(imitation(student, teacher, 2.0), expected / max(seen_in_all, 1))
    assert imitation(teacher, teacher, 2.0).abs() < 1e-6


def test_boxes_around_nothing_are_not_imitated():
    teacher = torch.zeros(1, 3, 1 + CLASSES + 4)
    teacher[..., 0] = 40  # nothing, for sure
    student = teacher.clone()
    student[..., -4:] = 9
    assert imitation(student, teacher, 1.0) < 1e-6
    student[0, 0, :4] = torch.tensor([0.0, 40, 0, 0])  # an object that the teacher does not see
    assert imitation(student, teacher, 1.0) > 1
