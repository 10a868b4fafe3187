"""Augmentation of whole batches on tensors: no worker processes, a few operators a batch.

Every function draws from torch's default generator of the batch's device: the caller seeds it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from edgeopt.train.settings import Augment, RandAugment

__all__ = ["crop_and_flip", "erase", "rand_augment", "warp"]

DRAWS = 16
"""Draws of RandAugment a batch. torchvision changes all images of a call alike, and a call costs about as much for one
small image as for ten: so each sixteenth of a batch shares a draw, with other companions in every epoch."""


def crop_and_flip(images: Tensor, pad: int, flip: bool) -> Tensor:
    """Crop [n, H, W, C] images at random out of their zero-padded selves, mirror half of them: one gather."""
    if not pad and not flip:
        return images
    n, height, width, _ = images.shape
    device = images.device
    rows = torch.arange(height, device=device).expand(n, height)
    columns = torch.arange(width, device=device).expand(n, width)
    if flip:
        mirrored = torch.rand(n, 1, device=device) < 0.5
        columns = torch.where(mirrored, width - 1 - columns, columns)
    if pad:
        images = F.pad(images, (0, 0, pad, pad, pad, pad))
        rows = rows + torch.randint(2 * pad + 1, (n, 1), device=device)
        columns = columns + torch.randint(2 * pad + 1, (n, 1), device=device)
    which = torch.arange(n, device=device)
    return images[which[:, None, None], rows[:, :, None], columns[:, None, :]]


def rand_augment(images: Tensor, settings: RandAugment) -> Tensor:
    """RandAugment of uint8 [n, H, W, C] images, C 1 or 3: DRAWS draws a batch; what comes in is black."""
    from torchvision.transforms import v2

    change = v2.RandAugment(settings.ops, settings.magnitude)
    changed = [change(part) for part in images.permute(0, 3, 1, 2).chunk(DRAWS)]
    return torch.cat(changed).permute(0, 2, 3, 1)


def warp(x: Tensor, augment: Augment) -> Tensor:
    """Turn, scale and move float [n, C, H, W] images about their centre, bilinear; what comes in is zero."""
    n, _, height, width = x.shape
    angle = _spread(n, augment.rotate, x) * (math.pi / 180)
    scale = 1 + _spread(n, augment.zoom, x)
    cos, sin = angle.cos() / scale, angle.sin() / scale
    # affine_grid works in -1..1 on both axes: sizes come in so that a turn stays a turn on oblong images
    theta = torch.stack(
        [
            torch.stack([cos, -sin * (height / width), _spread(n, 2 * augment.shift / width, x)], 1),
            torch.stack([sin * (width / height), cos, _spread(n, 2 * augment.shift / height, x)], 1),
        ],
        1,
    )
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, align_corners=False)


def erase(x: Tensor, share: float) -> Tensor:
    """Set a random rectangle (2 to 20 % of the area) to zero in `share` of the float [n, C, H, W] images.

    Random erasing, Zhong et al., arXiv 1708.04896.
    """
    n, _, height, width = x.shape
    area = torch.empty(n, device=x.device).uniform_(0.02, 0.2)
    aspect = torch.empty(n, device=x.device).uniform_(math.log(0.3), math.log(3.3)).exp()
    area = torch.where(torch.rand(n, device=x.device) < share, area, 0.0)
    tall, wide = (area * aspect).sqrt() * height, (area / aspect).sqrt() * width
    rows, columns = _interval(tall, height), _interval(wide, width)
    return x.masked_fill((rows[:, :, None] & columns[:, None, :])[:, None], 0.0)


def _spread(n: int, limit: float, like: Tensor) -> Tensor:
    """`n` numbers, uniform in -limit..limit."""
    return (torch.rand(n, device=like.device) * 2 - 1) * limit


def _interval(length: Tensor, size: int) -> Tensor:
    """bool [n, size]: a stretch of `length` (rounded) at a random place in 0..size."""
    length = length.round().clamp(max=size)[:, None]
    start = (torch.rand_like(length) * (size - length + 1)).floor()
    place = torch.arange(size, device=length.device)
    return (place >= start) & (place < start + length)
