import numpy as np
import pytest
import torch

from edgeopt.train.augment import DRAWS, crop_and_flip, erase, rand_augment, warp
from edgeopt.train.settings import Augment, RandAugment


def images(n=64, height=5, width=7, channels=3):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(1, 256, (n, height, width, channels), dtype=torch.uint8, generator=generator)


def test_flip_mirrors_about_half_and_leaves_the_rest():
    torch.manual_seed(1)
    batch = images()
    flipped = [
        torch.equal(after, before.flip(1)) for before, after in zip(batch, crop_and_flip(batch, 0, True), strict=True)
    ]
    kept = [torch.equal(after, before) for before, after in zip(batch, crop_and_flip(batch, 0, False), strict=True)]
    assert all(kept)
    assert 16 < sum(flipped) < 48
    torch.manual_seed(1)
    for mirrored, before, after in zip(flipped, batch, crop_and_flip(batch, 0, True), strict=True):
        assert mirrored or torch.equal(after, before)


def test_crops_are_windows_of_the_padded_image():
    torch.manual_seed(2)
    batch = images()
    padded = np.pad(batch.numpy(), ((0, 0), (2, 2), (2, 2), (0, 0)))
    found = set()
    for image, crop in zip(padded, crop_and_flip(batch, 2, False).numpy(), strict=True):
        places = [
            (row, column)
            for row in range(5)
            for column in range(5)
            if np.array_equal(image[row : row + 5, column : column + 7], crop)
        ]
        assert len(places) == 1
        found.add(places[0])
    assert len(found) > 15  # of 25: rows and columns are drawn apart and for each image


def test_no_warp_changes_nothing():
    x = images().permute(0, 3, 1, 2).float()
    torch.testing.assert_close(warp(x, Augment()), x, rtol=0, atol=1e-2)


@pytest.mark.parametrize(("height", "width"), [(8, 16), (16, 8)])
def test_a_shift_moves_by_up_to_its_pixels_along_each_axis(height, width):
    torch.manual_seed(3)
    y, x = torch.meshgrid(torch.arange(float(height)), torch.arange(float(width)), indexing="ij")
    for ramp in (x, y):
        moved = (warp(ramp.expand(200, 1, height, width), Augment(shift=1.5)) - ramp)[:, 0, 3:5, 3:5]
        steps = moved.mean((1, 2))
        torch.testing.assert_close(moved, steps[:, None, None].expand_as(moved), rtol=0, atol=1e-3)
        assert 1.4 < steps.max() < 1.501
        assert -1.501 < steps.min() < -1.4


def test_a_turn_is_a_turn_on_oblong_images():
    """Rings around the centre stay rings."""
    torch.manual_seed(4)
    y, x = torch.meshgrid(torch.arange(16) - 7.5, torch.arange(32) - 15.5, indexing="ij")
    radius = torch.hypot(x, y).expand(16, 1, 16, 32)
    turned = warp(radius, Augment(rotate=180))
    near = (radius[0, 0] > 2) & (radius[0, 0] < 7)
    torch.testing.assert_close(turned[:, 0, near], radius[:, 0, near], rtol=0, atol=0.15)


def test_a_zoom_scales_about_the_centre():
    torch.manual_seed(5)
    y, x = torch.meshgrid(torch.arange(16) - 7.5, torch.arange(16) - 7.5, indexing="ij")
    radius = torch.hypot(x, y).expand(32, 1, 16, 16)
    near = (radius[0, 0] > 3) & (radius[0, 0] < 5)
    factors = (warp(radius, Augment(zoom=0.2)) / radius)[:, 0, near]
    assert (factors.amax(1) - factors.amin(1)).max() < 0.05
    assert 1 / 1.21 < factors.min() < 0.9
    assert 1.1 < factors.max() < 1 / 0.79


def test_erase_blanks_one_rectangle_in_its_share_of_the_images():
    torch.manual_seed(6)
    x = torch.ones(400, 2, 16, 16)
    erased = erase(x, 0.5)
    areas = (erased[:, 0] == 0).sum((1, 2)) / 256
    assert torch.equal(erased[:, 0], erased[:, 1])
    assert 140 < (areas > 0).sum() < 260
    assert areas.max() < 0.25
    for image in erased[areas > 0][:50, 0]:
        rows, columns = (image == 0).any(1).sum(), (image == 0).any(0).sum()
        assert rows * columns == (image == 0).sum()
    assert torch.equal(erase(x, 0.0), x)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("count", [1, 5, 64])
def test_randaugment_keeps_shape_and_type(channels, count):
    torch.manual_seed(7)
    batch = images(count, channels=channels)
    changed = rand_augment(batch, RandAugment(ops=3))
    assert changed.shape == batch.shape
    assert changed.dtype == torch.uint8


def test_randaugment_draws_for_groups_of_images():
    """Equal images come out in as many forms as there are draws, about, and repeat with the seed."""
    batch = images(1, 8, 8).expand(64, -1, -1, -1)
    torch.manual_seed(8)
    changed = rand_augment(batch, RandAugment())
    forms = {image.numpy().tobytes() for image in changed}
    assert DRAWS / 2 < len(forms) <= DRAWS
    torch.manual_seed(8)
    assert torch.equal(rand_augment(batch, RandAugment()), changed)
    assert torch.equal(changed[0], changed[64 // DRAWS - 1])


def test_more_magnitude_changes_more():
    batch = images(64, 16, 16)
    moved = []
    for magnitude in (1, 28):
        torch.manual_seed(9)
        changed = rand_augment(batch, RandAugment(ops=1, magnitude=magnitude))
        moved.append((changed.float() - batch.float()).abs().mean().item())
    assert moved[1] > 1.5 * moved[0]
