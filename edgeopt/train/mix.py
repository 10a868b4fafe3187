"""Mixup and CutMix: images of a batch mixed with one another, and their labels in the same shares.

Mixup (Zhang et al., arXiv 1710.09412) blends two images; CutMix (Yun et al., arXiv 1905.04899) pastes a rectangle of
one into the other. Labels become shares of classes, float [n, classes]: the cross-entropy with those is the same
convex combination of the cross-entropies with each label, to rounding. A teacher sees the mixed images.

The share is drawn for each image, not for the batch as in the papers' code: the same distribution, less noise a step.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from edgeopt.train.settings import Augment

__all__ = ["Mixture", "cut_mix", "mix", "mix_up"]


@dataclass(frozen=True)
class Mixture:
    """For each image of a batch: which other is in it (int64 [n]), and its own share (float [n], 0 to 1)."""

    partner: Tensor
    share: Tensor

    def labels(self, labels: Tensor | None, classes: int) -> Tensor | None:
        """Shares of classes, float32 [n, classes], of class numbers int64 [n]; None of None."""
        if labels is None:
            return None
        own = F.one_hot(labels, classes).float()
        return torch.lerp(own[self.partner], own, self.share[:, None])


def mix(x: Tensor, augment: Augment, *, nhwc: bool = False) -> tuple[Tensor, Mixture | None]:
    """The prepared batch as `augment` mixes it, one of both methods at even odds where both are on."""
    if not augment.mixes:
        return x, None
    # drawn on the CPU: a choice of the host must not wait for a GPU
    cut = augment.cutmix > 0 and (augment.mixup == 0 or bool(torch.rand(()) < 0.5))
    if not cut:
        return mix_up(x, augment.mixup)
    mixed, mixture = cut_mix(x.permute(0, 3, 1, 2) if nhwc else x, augment.cutmix)
    return mixed.permute(0, 2, 3, 1) if nhwc else mixed, mixture


def mix_up(x: Tensor, alpha: float) -> tuple[Tensor, Mixture]:
    """share * x + (1 - share) * x[partner], share from Beta(alpha, alpha); x is float [n, ...]."""
    partner, share = _pairs(x, alpha)
    return torch.lerp(x[partner], x, share.view(-1, *[1] * (x.ndim - 1))), Mixture(partner, share)


def cut_mix(x: Tensor, alpha: float) -> tuple[Tensor, Mixture]:
    """x with a rectangle of x[partner] in it: centre anywhere, area 1 - share before it is cut at the border.

    x is float [n, C, H, W]. The share that counts is that of the pixels which stayed.
    """
    partner, share = _pairs(x, alpha)
    height, width = x.shape[2:]
    side = (1 - share).sqrt()
    rows, columns = _interval(side * height, height), _interval(side * width, width)
    pasted = rows[:, :, None] & columns[:, None, :]
    kept = 1 - pasted.float().mean((1, 2))
    return torch.where(pasted[:, None], x[partner], x), Mixture(partner, kept)


def _pairs(x: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    partner = torch.randperm(len(x), device=x.device)
    concentration = torch.full((len(x), 2), alpha, device=x.device)
    # unchecked: a check would wait for the GPU
    share = torch.distributions.Dirichlet(concentration, validate_args=False).sample()[:, 0]
    return partner, share.nan_to_num(1.0)  # of a tiny alpha both draws may be too small for a number


def _interval(length: Tensor, size: int) -> Tensor:
    """bool [n, size]: an even stretch of about `length` around a random centre, as much of it as lies in 0..size."""
    centre, half = (torch.rand_like(length) * size).floor(), (length / 2).floor()
    place = torch.arange(size, device=length.device)
    return (place >= (centre - half)[:, None]) & (place < (centre + half)[:, None])
