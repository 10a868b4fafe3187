import numpy as np
import pytest
import torch
from torch.nn import functional as F

from edgeopt.train.mix import Mixture, cut_mix, mix, mix_up
from edgeopt.train.settings import Augment


def batch(n=400, channels=2, height=12, width=16):
    return torch.rand(n, channels, height, width)


def test_mixup_is_the_blend_of_the_paper():
    torch.manual_seed(0)
    x = batch()
    mixed, mixture = mix_up(x, 0.4)
    share = mixture.share.view(-1, 1, 1, 1)
    torch.testing.assert_close(mixed, share * x + (1 - share) * x[mixture.partner])
    assert sorted(mixture.partner.tolist()) == list(range(400))
    mean, variance = mixture.share.mean(), mixture.share.var()
    assert mean == pytest.approx(0.5, abs=0.06)
    assert variance == pytest.approx(1 / (4 * (2 * 0.4 + 1)), rel=0.15)  # of Beta(0.4, 0.4)


@pytest.mark.parametrize("alpha", [1e-3, 0.01, 32.0])
def test_shares_are_numbers_whatever_alpha_is(alpha):
    torch.manual_seed(0)
    share = mix_up(torch.rand(20_000, 1), alpha)[1].share
    assert ((share >= 0) & (share <= 1)).all()


def test_mixup_takes_samples_of_any_shape():
    x = torch.rand(6, 5)
    mixed, mixture = mix_up(x, 1.0)
    torch.testing.assert_close(mixed, torch.lerp(x[mixture.partner], x, mixture.share[:, None]))


def test_cutmix_pastes_one_rectangle_and_counts_its_pixels():
    torch.manual_seed(0)
    x = batch()
    mixed, mixture = cut_mix(x, 1.0)
    other = x[mixture.partner]
    pasted = (mixed != x).all(1)
    for image, own, partner, where, share in zip(mixed, x, other, pasted, mixture.share, strict=True):
        assert torch.equal(image, torch.where(where, partner, own))
        rows, columns = where.any(1).nonzero(), where.any(0).nonzero()
        if len(rows) and not torch.equal(own, partner):
            assert where[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].all()
            assert share == pytest.approx(1 - where.float().mean().item(), abs=1e-6)


def pasted_by_the_papers_code(height, width, rng):
    """bool [height, width]: `rand_bbox` of the authors' repository (clovaai/CutMix-PyTorch, train.py)."""
    ratio = np.sqrt(1 - rng.beta(1.0, 1.0))
    tall, wide = int(height * ratio), int(width * ratio)
    y, x = rng.integers(height), rng.integers(width)
    rows = slice(np.clip(y - tall // 2, 0, height), np.clip(y + tall // 2, 0, height))
    columns = slice(np.clip(x - wide // 2, 0, width), np.clip(x + wide // 2, 0, width))
    pasted = np.zeros((height, width), bool)
    pasted[rows, columns] = True
    return pasted


def test_rectangles_are_distributed_as_those_of_the_papers_code():
    torch.manual_seed(1)
    rng = np.random.default_rng(0)
    x = batch(4000, 1)
    ours = (cut_mix(x, 1.0)[0] != x)[:, 0].float()
    theirs = torch.from_numpy(np.stack([pasted_by_the_papers_code(12, 16, rng) for _ in range(4000)])).float()
    torch.testing.assert_close(ours.mean(0), theirs.mean(0), rtol=0, atol=0.04)
    quantiles = torch.linspace(0.05, 0.95, 10)
    areas = [pasted.mean((1, 2)).quantile(quantiles) for pasted in (ours, theirs)]
    torch.testing.assert_close(*areas, rtol=0, atol=0.04)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_of_mixed_labels_is_the_combination_of_two_losses(smoothing):
    torch.manual_seed(0)
    logits, labels = torch.randn(50, 7), torch.randint(7, (50,))
    mixture = Mixture(torch.randperm(50), torch.rand(50))
    losses = [
        F.cross_entropy(logits, target, reduction="none", label_smoothing=smoothing)
        for target in (labels, labels[mixture.partner])
    ]
    expected = (mixture.share * losses[0] + (1 - mixture.share) * losses[1]).mean()
    found = F.cross_entropy(logits, mixture.labels(labels, 7), label_smoothing=smoothing)
    torch.testing.assert_close(found, expected)
    assert mixture.labels(None, 7) is None


def test_both_take_turns_and_off_is_off():
    torch.manual_seed(0)
    x = batch(8)
    assert mix(x, Augment()) == (x, None)
    cut = 0
    for _ in range(100):
        mixed, mixture = mix(x, Augment(mixup=1.0, cutmix=1.0))
        cut += bool(torch.isin(mixed, x).all())
        assert mixture is not None
    assert 30 < cut < 70
    assert torch.isin(mix(x, Augment(cutmix=1.0))[0], x).all()
    assert not torch.isin(mix(x, Augment(mixup=1.0))[0], x).all()


def test_nhwc_batches_are_cut_alike():
    x = batch()
    torch.manual_seed(2)
    mixed, mixture = mix(x, Augment(cutmix=1.0))
    torch.manual_seed(2)
    other, same = mix(x.permute(0, 2, 3, 1), Augment(cutmix=1.0), nhwc=True)
    assert torch.equal(other.permute(0, 3, 1, 2), mixed)
    assert torch.equal(mixture.share, same.share)
